"""`suggest`: which rows of a pool to label next, and the sheet that people fill in.

How the answers are read back is in `finetune.data.selection`.
"""
