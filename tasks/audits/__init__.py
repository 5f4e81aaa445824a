"""What only one kind of output has in a report: attributions of words, heat maps, residuals.

The sections that all tasks share are made by `finetune.audit`.
"""
