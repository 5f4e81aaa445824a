"""One run from its config to `final/`: set up, trained by the loop, recorded and finalized.

Start with `run.py`; the loop is `loop.py`. What only one task or method knows is not here.
"""
