"""Readers of Label Studio's JSON and JSON-MIN, in which texts and images are tasks alike.

Regions of images give images with objects (`tasks.objects.annotated`), choices give rows of
text or image classification.
"""
