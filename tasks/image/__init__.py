"""Image input of networks: reading, augmentation, tiling, normalization.

The networks themselves are in `tasks.backbones`.
"""
