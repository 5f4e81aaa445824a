"""Rows of text generation as prompts and answers: layouts of columns, dialogues, chat templates.

How they become tokens is in `tasks.generation`.
"""
