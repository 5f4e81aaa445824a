"""Heads: how what a network says of a row or an image becomes logits, or losses and boxes."""
