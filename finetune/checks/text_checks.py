"""Texts: their lengths, languages, and characters that were decoded wrongly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from finetune.checks.checked_rows import CheckedRows, list_rows
from finetune.errors import ConfigError, listed
from finetune.task_parts.rows import Finding

INSTALL = "pip install 'finetune-kit[check]'"
_SAMPLE = 400  # texts of a split whose language is detected
_LETTERS = 40  # fewer tell no language
_LONG = 380  # words, about the 512 tokens that most encoders read
_SHORT, _USUAL = 3, 20  # words
_COMMON = 0.05  # share of a language that is named
_SHIFT = 0.2
# UTF-8 that was read as cp1252, and characters that could not be read at all.
_MOJIBAKE = re.compile(
    "[\\u00c2\\u00c3][\\u0080-\\u00bf\\u201a\\u0192\\u201e\\u2026\\u20ac]|\\u00e2\\u20ac|\\ufffd"
)


def length_findings(splits: Sequence[CheckedRows]) -> Iterator[Finding]:
    """Yield findings on texts that are much shorter or longer than what networks read."""
    counts = [_word_counts(split) for split in splits]
    words = np.concatenate(counts)
    usual = int(np.median(words))
    about = f"(median {usual} words, longest {words.max()})"
    short = {
        split.name: split.numbers_at(np.flatnonzero(of_split < _SHORT).tolist())
        for split, of_split in zip(splits, counts, strict=True)
    }
    few, long = int((words < _SHORT).sum()), int((words > _LONG).sum())
    if few and usual >= _USUAL:
        where = "; ".join(f"{name} {list_rows(rows)}" for name, rows in short.items() if rows)
        text = f"{few} of {len(words)} texts have fewer than {_SHORT} words {about}: {where}"
        remedy = "check whether they are complete"
        yield Finding(2, "lengths", text, remedy, few / len(words), short)
    if long:
        text = f"{long} of {len(words)} texts have more than {_LONG} words {about}"
        remedy = "most encoders read 512 tokens: see task.max_length, and the run's header"
        yield Finding(1, "lengths", text, remedy, long / len(words))


def _word_counts(split: CheckedRows) -> np.ndarray:
    return np.array([sum(len(text.split()) for text in texts) for texts in split.texts])


def decoding_findings(splits: Sequence[CheckedRows]) -> Iterator[Finding]:
    """Yield findings on texts in a wrong encoding."""
    for split in splits:
        found = [
            int(number)
            for number, texts in zip(split.numbers, split.texts, strict=True)
            if any(_MOJIBAKE.search(text) for text in texts)
        ]
        if found:
            text = f"{len(found)} of {len(split)} {split.name} texts were decoded wrongly"
            yield Finding(
                2,
                "encoding",
                f"{text}: {list_rows(found)}",
                "data.encoding=utf-8, or mend the file",
                len(found) / len(split),
                {split.name: found},
            )


def language_findings(splits: Sequence[CheckedRows]) -> Iterator[Finding]:
    """Yield findings on several languages. Raises ConfigError if py3langid is not installed."""
    shares = {split.name: _languages(split) for split in splits}
    trained = shares.pop(splits[0].name)
    common = {name: share for name, share in trained.items() if share >= _COMMON}
    if len(common) > 1:
        yield Finding(
            2,
            "languages",
            f"train is in {_listed(common)}",
            "use a multilingual model, and report.slices=[language]",
            1 - max(common.values()),
        )
    for name, others in shares.items():
        moved = {each for each in {*trained, *others} if _shift(trained, others, each) >= _SHIFT}
        if moved:
            text = f"{name} is in {_listed(others)}, train in {_listed(trained)}"
            yield Finding(3, "languages", text, "train on the languages that are measured", 1.0)


def detect_languages(texts: Sequence[str]) -> list[str]:
    """Return the code of each text's language, such as "en"; "" for texts that are too short.

    Raises ConfigError if py3langid is not installed.
    """
    try:
        from py3langid import classify
    except ModuleNotFoundError as error:
        raise ConfigError(f"languages: py3langid is not installed; {INSTALL}") from error
    return [
        classify(text[:2000])[0] if sum(map(str.isalpha, text[:500])) >= _LETTERS else ""
        for text in texts
    ]


def _languages(split: CheckedRows) -> dict[str, float]:
    """Return the share of each language among texts that are spread over the split."""
    count = min(_SAMPLE, len(split))
    places = [len(split) * place // count for place in range(count)]
    found = Counter(detect_languages(["\n".join(split.texts[place]) for place in places]))
    del found[""]
    return {name: number / found.total() for name, number in found.most_common()}


def _listed(shares: dict[str, float]) -> str:
    return listed((f"{name} {share:.0%}" for name, share in shares.items()), 5)


def _shift(one: dict[str, float], other: dict[str, float], name: str) -> float:
    return abs(one.get(name, 0.0) - other.get(name, 0.0)) if other else 0.0
