"""Pretraining continued on unlabeled texts and images: masks, networks that fill them, views.

The tasks are `tasks.masked_language_modeling` and `tasks.masked_image_modeling`.
"""
