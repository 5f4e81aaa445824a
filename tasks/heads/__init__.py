"""Heads of detection: how what a network says of an image becomes losses and boxes."""

from tasks.heads.fcos import FcosHead, Suppression, build_fcos
from tasks.heads.queries import QueryHead, family_of

__all__ = ["FcosHead", "QueryHead", "Suppression", "build_fcos", "family_of"]
