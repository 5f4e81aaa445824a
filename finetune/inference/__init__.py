"""Inference with a fine-tuned model: loading, prediction, evaluation and embedding of rows.

Nothing here trains or changes a model.
"""
