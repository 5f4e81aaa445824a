"""Metrics of generated texts against references: ROUGE, BLEU and chrF, by their usual libraries.

ROUGE (Lin 2004) by rouge-score, as F-measures in 0..1; BLEU (Papineni et al. 2002) and chrF
(Popovic 2015) of the whole corpus by sacrebleu, in 0..100.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from statistics import fmean

from finetune.errors import ConfigError

ROUGE = ("rouge1", "rouge2", "rougeL")
_PACKAGES = ("rouge_score", "sacrebleu")


def check_scorers() -> None:
    """Raise ConfigError if a package that computes the metrics is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"task.generate: {' and '.join(missing)} must be installed to score generated text; "
            "pip install 'finetune-kit[generation]', or set task.generate=false"
        )


def score_texts(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score each text against its reference: {rouge1, rouge2, rougeL, bleu, chrf}."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    pairs = zip(references, texts, strict=True)
    rouge = [scorer.score(reference, text) for reference, text in pairs]
    metrics = {name: fmean(scores[name].fmeasure for scores in rouge) for name in ROUGE}
    # force silences a warning about texts that look tokenized, as headlines may.
    metrics["bleu"] = BLEU(force=True).corpus_score(list(texts), [list(references)]).score
    metrics["chrf"] = CHRF().corpus_score(list(texts), [list(references)]).score
    return metrics
