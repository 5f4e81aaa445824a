"""The command line: options, help texts and the end of a command, each a thin layer over the rest.

The Python counterpart is `finetune.api`.
"""
