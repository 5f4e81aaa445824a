"""Heads of detection: how what a network says of an image becomes losses and boxes."""
