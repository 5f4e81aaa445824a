"""From a reference, or data made in Python, to checked tables: train, validation and test.

Reads files, resolves columns, validates rows and makes splits. Encoding rows is up to the task;
batches are made in `finetune.batching`.
"""
