"""Report on a finished model: one self-contained page about its results on a held-out split.

Each section is built from the statistics of an evaluation; what only one kind of output has comes
from the views of its task.
"""
