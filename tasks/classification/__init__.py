"""What tasks with a column of labels share: finding it, targets, losses, metrics, the confusion
matrix.

Reading the texts or images that are labeled is in `tasks.text` and `tasks.image`.
"""
