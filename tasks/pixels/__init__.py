"""Pixels as they are stored: opening of files, bands, depth, and the range of a dataset.

`tasks.image.image_reading` decodes the cells of rows with it.
"""
