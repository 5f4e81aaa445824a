"""Tables of JSON files: objects by line, or anywhere in one value.

Large files of lines are read in blocks that need no memory.
"""
