"""Learning from rows without labels: methods that give them pseudo-labels, and the check of these.

All but `unlabeled_rows` are functions of vectors, which a frozen network has computed.
"""
