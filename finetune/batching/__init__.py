"""From the rows of a split to batches: which rows make which step, and how they get there.

Order and randomness are functions of the position in the run. Nothing here reads files of data or
computes a gradient.
"""
