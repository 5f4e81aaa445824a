"""Readers of what annotation tools export, each named after its tool.

labelme, CVAT, Label Studio, CreateML, VGG Image Annotator and Supervisely. They yield images with
objects (`tasks.annotations.annotated`), from which rows of detection and segmentation are made; the
choices of Label Studio also give rows of text classification. COCO, YOLO, VOC and tables of boxes,
which all of these tools export too, are read in `tasks.annotations`.
"""
