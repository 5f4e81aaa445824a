"""From the words of a command to checked arguments, before torch is imported.

What a command finds wrong here is answered within a second.
"""
