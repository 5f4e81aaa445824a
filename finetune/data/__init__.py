"""From a reference, or data made in Python, to checked tables: train, validation and test.

Files are read, columns resolved, rows validated and splits cut here. Encoding rows for a network is
the task's, and batches are made in `finetune.batching`.
"""
