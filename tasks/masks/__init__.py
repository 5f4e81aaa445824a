"""What segmentation is made of: the masks of a row, networks, losses and metrics by area.

File formats of masks are read in `tasks.annotations`.
"""
