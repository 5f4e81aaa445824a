"""Images on their way to a network: read, augmented, cut into tiles, normalized.

The networks that read them are in `tasks.backbones`.
"""
