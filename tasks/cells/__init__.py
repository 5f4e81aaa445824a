"""Forms of label cells in the wild: lists as text, delimited labels, zeros and ones, numbers.

Pure functions of values: they know neither configs nor rows.
"""
