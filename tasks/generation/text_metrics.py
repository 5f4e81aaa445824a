"""Scores of written text against references: ROUGE, BLEU and chrF, by libraries that are well kept.

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
    """Raise ConfigError if a library that scores is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"task.generate: {' and '.join(missing)} must be installed to score what is written; "
            "pip install 'finetune-kit[generation]', or set task.generate=false"
        )


def score_texts(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{rouge1, rouge2, rougeL, bleu, chrf} of texts, each against its reference."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    pairs = zip(references, written, strict=True)
    rouge = [scorer.score(reference, text) for reference, text in pairs]
    found = {name: fmean(scores[name].fmeasure for scores in rouge) for name in ROUGE}
    # force: it would warn of texts that look tokenized, which a headline may.
    found["bleu"] = BLEU(force=True).corpus_score(list(written), [list(references)]).score
    found["chrf"] = CHRF().corpus_score(list(written), [list(references)]).score
    return found
