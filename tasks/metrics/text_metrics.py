"""Metrics of generated texts against references, by their usual libraries.

ROUGE (Lin 2004) by rouge-score, as F-measures in 0..1; BLEU (Papineni et al. 2002) and chrF
(Popovic 2015) of the whole corpus by sacrebleu, in 0..100. Exact matches, word and character error
rates need no library; they are those of the modules of `evaluate` with these names.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from inspect import signature
from statistics import fmean
from typing import Any

from finetune.errors import ConfigError, nearest

ROUGE = ("rouge1", "rouge2", "rougeL")
_PACKAGES = {"rouge": "rouge_score", "bleu": "sacrebleu", "chrf": "sacrebleu"}


def check_scorers(names: Iterable[str], key: str = "task.generate") -> None:
    """Raise ConfigError if a package that computes one of the metrics is not installed."""
    needed = dict.fromkeys(_PACKAGES[name] for name in names if name in _PACKAGES)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{key}: {' and '.join(missing)} must be installed to score generated text; "
            "pip install 'finetune-kit[generation]', or "
            + ("set task.generate=false" if key == "task.generate" else "remove the metric")
        )


def score_texts(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score each text against its reference: {rouge1, rouge2, rougeL, bleu, chrf}."""
    return rouge(texts, references) | bleu(texts, references) | chrf(texts, references)


def rouge(
    texts: Sequence[str], references: Sequence[str], use_stemmer: bool = True
) -> dict[str, float]:
    """Compute the means of rouge1, rouge2 and rougeL."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), use_stemmer=use_stemmer)
    pairs = zip(references, texts, strict=True)
    scores = [scorer.score(reference, text) for reference, text in pairs]
    return {name: fmean(each[name].fmeasure for each in scores) for name in ROUGE}


def bleu(texts: Sequence[str], references: Sequence[str], **settings: Any) -> dict[str, float]:
    """Compute BLEU; `settings` are those of sacrebleu, such as tokenize and lowercase."""
    from sacrebleu.metrics import BLEU

    # force silences a warning about texts that look tokenized, as headlines may.
    scorer = BLEU(**{"force": True, **settings})
    return {"bleu": scorer.corpus_score(list(texts), [list(references)]).score}


def chrf(texts: Sequence[str], references: Sequence[str], **settings: Any) -> dict[str, float]:
    """Compute chrF; `settings` are those of sacrebleu, such as word_order."""
    from sacrebleu.metrics import CHRF

    score = CHRF(**settings).corpus_score(list(texts), [list(references)]).score
    return {"chrf": score}


def exact_match(
    texts: Sequence[str],
    references: Sequence[str],
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
) -> dict[str, float]:
    """Compute the share of texts that equal their reference."""
    dropped = string.punctuation * ignore_punctuation + string.digits * ignore_numbers
    table = str.maketrans("", "", dropped)

    def plain(text: str) -> str:
        return (text.lower() if ignore_case else text).translate(table)

    pairs = zip(texts, references, strict=True)
    return {"exact_match": fmean(plain(text) == plain(reference) for text, reference in pairs)}


def wer(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compute the word error rate: edits per word of the references."""
    return {"wer": _error_rate([t.split() for t in texts], [r.split() for r in references])}


def cer(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compute the character error rate: edits per character of the references."""
    return {"cer": _error_rate(texts, references)}


TEXT_METRICS: Mapping[str, Callable[..., dict[str, float]]] = {
    each.__name__: each for each in (bleu, cer, chrf, exact_match, rouge, wer)
}


def text_setting_faults(name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the unknown settings of a metric of texts; sacrebleu checks those of its own."""
    parameters = signature(TEXT_METRICS[name]).parameters
    known = [key for key in parameters if key not in ("texts", "references")]
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for key in settings:
        if key not in known:
            yield f"{name}: unknown setting {key!r}; {nearest(key, known)}"


def _error_rate(texts: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    edits = sum(_edits(*pair) for pair in zip(texts, references, strict=True))
    length = sum(map(len, references))
    return edits / length if length else float("nan")


def _edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the Levenshtein distance of two sequences."""
    distances = list(range(len(other) + 1))
    for row, item in enumerate(one, start=1):
        previous, distances[0] = distances[0], row
        for column, candidate in enumerate(other, start=1):
            changed = previous + (item != candidate)
            previous = distances[column]
            distances[column] = min(changed, previous + 1, distances[column - 1] + 1)
    return distances[-1]
