"""The config of a run: its sections, and how files and command lines become one.

Nothing here loads a network or reads data; values left at null are chosen in
`finetune.training.recipes`.
"""
