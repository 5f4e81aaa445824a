"""The config of a run: its sections, and how files and command lines are merged into one.

Nothing here loads a model or reads data; keys left at null are filled in later, by
`finetune.training.recipes`.
"""
