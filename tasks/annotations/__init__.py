"""Annotations of pictures as people have them -> rows: COCO, and what other tasks bring."""

from tasks.annotations.formats import read_boxes

__all__ = ["read_boxes"]
