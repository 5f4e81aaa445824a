"""The methods: which parameters of a network are trained, and how. A method never sees a task."""

from finetune.methods.choice import make_method
from finetune.methods.method import Method

__all__ = ["Method", "make_method"]
