"""Readers of what annotation tools export, each named after its tool.

labelme, CVAT, CreateML, VGG Image Annotator and Supervisely; Label Studio has a room of its own.
They yield images with objects (`tasks.annotations.annotated`), from which rows of detection and
segmentation are made. COCO, YOLO, VOC and tables of boxes, which all of these tools export too, are
read in `tasks.annotations`.
"""
