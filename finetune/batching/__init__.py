"""From the rows of a split to batches: which rows form which step, and how they are loaded.

Order and randomness are functions of the position in the run. Nothing here reads data files or
computes gradients.
"""
