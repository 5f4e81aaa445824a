"""Audit of a detector: what its boxes are beside the true ones, as sections of a report.

They know statistics and rows, neither networks nor methods.
"""
