"""Commands on the machines of a Ray cluster: connection, tasks, and blocks of rows.

What crosses machines are names of files, models and config keys, never rows or networks: all
machines share a folder.
"""
