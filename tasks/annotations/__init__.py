"""Annotations of pictures as people have them -> rows: COCO, and what other tasks bring."""
