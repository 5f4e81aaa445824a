"""Checks of data before training: leaks, duplicates, labels, columns, texts, pictures.

What is found is ranked by how much it will harm a model, each with its remedy. A task is asked only
through its `Rows`: its texts, pictures, labels, and what it alone can find.
"""
