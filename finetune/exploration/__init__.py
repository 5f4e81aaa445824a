"""Exploration of rows by their features, with or without labels.

`finetune explore` describes rows by the analyses of `finetune.analysis`, and writes a folder with
tables, pictures and a page with a map.
"""
