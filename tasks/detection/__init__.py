"""Building blocks of object detection: rows, detectors with their losses, metrics and drawings.

Box annotation files are read in `tasks.annotations`.
"""
