"""COCO annotations: their files, images, categories and objects.

They are read as images with objects (`tasks.objects`), or as images with labels.
"""
