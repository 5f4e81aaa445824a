"""A fine-tuned model at work: loaded, predicting rows or tables, measured on a split, embedding.

Nothing here trains or changes a model.
"""
