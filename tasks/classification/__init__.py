"""Shared parts of tasks with a label column: its detection, targets, losses, metrics, the confusion
matrix.

Reading the labeled texts or images is left to `tasks.text` and `tasks.image`.
"""
