"""Annotations of pictures as people have them -> rows."""
