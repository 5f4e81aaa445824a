"""Rare groups of rows and rare classes: groups of a column, worst-group metrics, group DRO, and
synthetic features.
"""
