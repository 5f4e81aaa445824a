"""Metrics that task.metrics adds: by name from libraries, or as modules of `evaluate`.

Nothing here knows a task: rows are judged in one of four kinds (`judged_rows`).
"""
