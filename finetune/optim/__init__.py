"""From parameter groups to updates: optimizers, learning-rate schedules, the guard against
non-finite gradients, and the moving average of the weights.

The groups and their rates come from a method (`finetune.methods`).
"""
