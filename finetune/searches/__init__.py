"""A search from its plan to its results: trials over values of keys, or the advisor.

The advisor tries the ladder of methods when no key has values, and answers in words.
"""
