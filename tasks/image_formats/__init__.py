"""Formats of images with annotations, as the `DataFormat`s of the tasks that read them.

Exports of annotation tools, public datasets with a layout of their own, and public datasets that
are recognized and refused. The config of image classification is here, as those of the other tasks
are in their rooms.
"""
