"""The parts of a task beside its forward pass, and the types that pass through it.

`Rows` reads and validates data, `Views` shows things to people; export and embedding are optional.
None of them is called during a training step.
"""
