"""The methods: which parameters of a network are trained, and how.

A method sees a `TransferModel` and never a task. Optimizers are in `finetune.optim`.
"""
