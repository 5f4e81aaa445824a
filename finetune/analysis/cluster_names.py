"""Names of clusters of texts: the words that set a cluster apart, by class-based tf-idf.

The weight of a word is its share of the cluster's words times log(1 + A / f), with A the mean
number of words of a cluster and f the word's number in all of them (BERTopic, arXiv 2203.05794).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WORDS = 4
_MOST_COMMON = 0.5  # words in a larger share of the texts do not tell clusters apart
_VOCABULARY = 20_000


def name_clusters(texts: Sequence[str], clusters: np.ndarray, words: int = _WORDS) -> list[str]:
    """Return a name for each cluster from 0 on: its `words` of largest weight, "" without any."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    count = int(clusters.max()) + 1
    common = _MOST_COMMON if len(texts) >= 10 else 1.0
    vectorizer = CountVectorizer(
        stop_words="english",
        token_pattern=r"(?u)\b[^\W\d_]\w+\b",  # noqa: S106 - a pattern, not a password
        max_df=common,
        max_features=_VOCABULARY,
    )
    try:
        counts = vectorizer.fit_transform(texts)  # [N, words]
    except ValueError:  # the texts hold no words
        return [""] * count
    members = csr_array(
        (np.ones(len(texts)), (clusters, np.arange(len(texts)))), shape=(count, len(texts))
    )
    sums = (members @ counts).toarray()  # [clusters, words]
    totals = sums.sum(1, keepdims=True)
    weights = sums / np.maximum(totals, 1) * np.log1p(totals.mean() / sums.sum(0))
    vocabulary = vectorizer.get_feature_names_out()
    order = np.argsort(-weights, axis=1, kind="stable")[:, :words]
    return [
        ", ".join(vocabulary[word] for word in order[each] if weights[each, word] > 0)
        for each in range(count)
    ]
