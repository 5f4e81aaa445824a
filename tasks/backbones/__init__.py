"""Pretrained networks of transformers and timm: loading, names of blocks and layers, new heads.

Code that is specific to a task is in the package of that task.
"""
