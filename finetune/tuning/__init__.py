"""Search for the method, the model and the rates: trials of one search, each an ordinary run.

Optuna samples the values of a trial and prunes hopeless ones. A search stops at any moment and
goes on where it stopped; several processes, on several machines, can share its folder.
"""
