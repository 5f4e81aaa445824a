"""Images with objects: boxes and outlines, their conventions, and the rows made of them.

All readers of annotations build them: `tasks.annotations`, `tasks.coco`, `tasks.exports` and
`tasks.label_studio`.
"""
