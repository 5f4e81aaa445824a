"""The command line: one file a command, thin over the rooms below; `main.py` lists them.

The same from Python is `finetune.api`.
"""
