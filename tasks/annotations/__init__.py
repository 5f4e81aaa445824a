"""Readers of annotation files: YOLO, Pascal VOC, and CSV with one box per line.

They yield images with objects (`tasks.objects`), from which rows of detection and segmentation are
made. COCO is read in `tasks.coco`. Folders of masks are read in `tasks.mask_sources`.
"""
