"""Readers of annotation files: COCO, YOLO, Pascal VOC, and CSV with one box per line.

They yield images with objects (`annotated`), from which rows of detection and segmentation are
made. Folders of masks are read in `tasks.mask_sources`.
"""
