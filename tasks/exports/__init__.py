"""Readers of what annotation tools export, each named after its tool.

labelme, CVAT, CreateML, VGG Image Annotator, Supervisely, VoTT and FiftyOne; Label Studio has a
room of its own. They yield images with objects or labels (`tasks.objects.annotated`), from
which rows are made in `tasks.image_formats`. COCO, YOLO, VOC and tables of boxes, which most of
these tools export too, are read in `tasks.annotations`.
"""
