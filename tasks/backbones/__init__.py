"""Pretrained networks of transformers and timm: loaded, their blocks and layers named, new heads
put on them.

What reads their outputs for one task is in that task's room.
"""
