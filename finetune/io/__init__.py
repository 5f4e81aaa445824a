"""Crash-safe input and output: checkpoints, run folders, tables, requests to a hub.

Files are written atomically. Data sets are read in `finetune.data`; models are exported in
`finetune.export`.
"""
