"""What a search tries: the notation of values, the section `search` of a config, and the plan.

No module here imports torch, so that the faults of a command line are answered at once.
"""
