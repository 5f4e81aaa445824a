"""Tables: one file becomes typed columns, and notes on how it was read.

Reads CSV, JSON, Parquet, Arrow and plain text. Splits, folders and hub datasets are the concern of
`finetune.data`.
"""
