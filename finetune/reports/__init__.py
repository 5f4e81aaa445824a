"""What the measurements of a run say about its model.

Intervals, calibration and its repair.
"""
