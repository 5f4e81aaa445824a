"""Processes, devices and number formats: how a run is launched, sharded, cast and stopped by
signals.

Nothing here knows what is trained.
"""
