"""What object detection is made of: the objects of a row, detectors and their losses, metrics,
drawings.

File formats of boxes are read in `tasks.annotations`.
"""
