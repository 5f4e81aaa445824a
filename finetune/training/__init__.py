"""One run from its config to `final/`: setup, training loop, recording, finalization.

Start with `run.py`; the loop is `loop.py`. Nothing here is specific to one task or method.
"""
