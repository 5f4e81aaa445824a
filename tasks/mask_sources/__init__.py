"""Sources of masks: folders of images and masks, legends, and outlines of annotation files.

Their rows are those of `tasks.masks`; mask files are decoded here, and mapped to classes there.
"""
