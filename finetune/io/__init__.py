"""What is read from and written to disk or a hub, whole or not at all: checkpoints, run folders,
tables.

Data sets are read in `finetune.data`; models are exported in `finetune.export`.
"""
