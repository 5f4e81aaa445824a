"""Tables: one file becomes typed columns, and notes on how it was read.

Reads CSV, Parquet, Arrow and plain text. JSON has a room of its own; splits, folders and hub
datasets are the concern of `finetune.data`.
"""
