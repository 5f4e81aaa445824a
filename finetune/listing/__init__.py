"""Listing of folders: visible files, folders of classes, names of splits, images of a table.

Nothing is opened or decoded here. Data sets are read in `finetune.data`.
"""
