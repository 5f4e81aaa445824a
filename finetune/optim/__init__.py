"""From groups of parameters to updates: optimizers, schedules, the guard against gradients that are
not finite, and the moving average of the weights.

Which parameters there are, and at which rates, a method decides.
"""
