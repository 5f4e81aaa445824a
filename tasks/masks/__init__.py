"""Building blocks of semantic segmentation: masks of rows, networks, losses and area metrics.

Mask files are read in `tasks.mask_sources`.
"""
