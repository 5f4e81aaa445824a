"""Readers of annotation files: boxes (COCO, YOLO, Pascal VOC, CSV) and masks, as rows.

The tasks that train on these rows are in `tasks.detection` and `tasks.masks`.
"""
