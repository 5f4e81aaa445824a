"""Boxes and masks in the file formats that people have, read as rows.

What a network makes of them is in `tasks.detection` and `tasks.masks`.
"""
