"""Processes, devices and precision: launching, sharding, casting and graceful shutdown.

Agnostic to what is trained.
"""
