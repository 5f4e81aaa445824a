"""The command line: `main.py` lists the commands, each a thin layer over the other packages.

The Python counterpart is `finetune.api`.
"""
