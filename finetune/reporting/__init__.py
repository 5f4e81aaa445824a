"""What a person reads of a run: console, tables of metrics, plots, trackers, runs side by side.

Nothing here computes a metric.
"""
