"""A run before it is trained: its data, one row's path, its config, steps, memory and time.

`finetune inspect` and `finetune.inspect` show the same. No update is made, and nothing is written
except a contact sheet on request.
"""
