"""Analysis of vectors: components, neighbors, maps, clusters, outliers, near duplicates.

Functions of arrays and a seed, which know neither rows nor networks. scikit-learn is imported when
they are called; `finetune.analysis.requirements` says so if it is missing.
"""
