"""Processes, devices, precision, dropout: launching, sharding, casting, graceful shutdown.

Agnostic to what is trained.
"""
