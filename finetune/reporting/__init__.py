"""Human-readable output of runs: console, metric tables, plots, trackers, comparison of runs.

Nothing here computes a metric.
"""
