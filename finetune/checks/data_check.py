"""The check of a data set: all findings, ranked by how much they will harm a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.checks.checked_rows import CheckedRows, checked_splits
from finetune.checks.column_checks import column_findings, telling_words
from finetune.checks.duplicates import TRAIN, Duplicates, leak_findings, repeat_findings
from finetune.checks.label_checks import balance_findings, contradiction_findings
from finetune.checks.picture_checks import size_findings
from finetune.checks.text_checks import decoding_findings, language_findings, length_findings
from finetune.config.loading import Loaded
from finetune.data.opening import Splits, open_splits
from finetune.errors import ConfigError, format_count
from finetune.io.files import write_json
from finetune.io.table_writer import name_file_in_errors, open_writer
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.task_parts.rows import Finding

FINDINGS, DUPLICATES, DROP = "findings.json", "duplicates.csv", "drop.csv"
HARM = {3: "high", 2: "medium", 1: "low"}
# Notes on opening the data that a finding repeats.
_SKIPPED = " skipped: "
_FOUND = (
    "leakage:",
    "exact duplicates",
    "differ from another row",
    "once read in another encoding",
    _SKIPPED,
)
_MOST_LISTED = 1000  # numbers of rows of a finding in the file


def check_data(
    loaded: Loaded, task: Task, console: Console, output: Path | None = None, *, data: Any = None
) -> list[Finding]:
    """Check the data of a config, print what was found and return it, the most harmful first.

    Invalid rows are skipped and counted. With `output`, a folder, the findings are written with the
    numbers of their rows, a table of the duplicates, and one for data.drop of the training rows
    that repeat or leak. `data` is a dataset made in Python, in place of data.source.
    """
    config = loaded.config.data
    if config.on_error == "stop":
        config = config.model_copy(update={"on_error": "skip"})
    with console.during("reading and checking the rows"):
        splits = open_splits(config, task, data)
    checked = checked_splits(splits, task.rows)
    duplicates, unchecked = Duplicates(checked), list[str]()
    with console.during("comparing the rows"):
        findings = rank([*_findings(splits, checked, duplicates, unchecked)])
    notes = [note for note in splits.notes if not any(words in note for words in _FOUND)]
    console.facts({"task": task.name, "data": "\n".join([*loaded.notes, *notes, splits.sizes])})
    show(findings, unchecked, console)
    if output is not None:
        with name_file_in_errors(output):
            _write(output, findings, unchecked, duplicates)
        console.facts({"written": str(output)})
    return findings


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by harm, those of equal harm by the share of rows concerned."""
    return sorted(findings, key=lambda finding: (-finding.harm, -finding.share))


def _findings(
    splits: Splits, checked: Sequence[CheckedRows], duplicates: Duplicates, unchecked: list[str]
) -> Iterator[Finding]:
    """Yield all findings; append to `unchecked` what could not be checked."""
    yield from _broken(splits)
    yield from leak_findings(duplicates)
    yield from repeat_findings(duplicates)
    yield from contradiction_findings(checked)
    yield from column_findings(checked[0])
    yield from balance_findings(checked)
    if checked[0].has_texts:
        yield from telling_words(checked[0])
        yield from length_findings(checked)
        yield from decoding_findings(checked)
        try:
            yield from language_findings(checked)
        except ConfigError as error:
            unchecked.append(str(error))
    if checked[0].has_pictures:
        yield from size_findings(checked)
    for split in checked:
        yield from split.task_rows.examine(split.name, split.rows, split.numbers)


def _broken(splits: Splits) -> Iterator[Finding]:
    """Yield a finding for the invalid rows of each split."""
    for note in splits.notes:
        if _SKIPPED in note:
            remedy = "correct these rows; data.on_error=skip leaves them out"
            # A share of 1: training does not begin.
            yield Finding(3, "broken rows", note.replace(_SKIPPED, " are invalid: "), remedy, 1.0)


def show(findings: Sequence[Finding], unchecked: Sequence[str], console: Console) -> None:
    """Print findings, and what could not be checked."""
    for number, finding in enumerate(findings, start=1):
        console.print(f"{number:>3}  {HARM[finding.harm]:<6}  {finding.topic}: {finding.text}")
        console.print(f"{'':>13}-> {finding.remedy}")
    for text in unchecked:
        console.print(f"not checked: {text}")
    counts = [f"{sum(each.harm == harm for each in findings)} {HARM[harm]}" for harm in HARM]
    console.print(f"{format_count(len(findings), 'finding')}: {', '.join(counts)}")


def _write(
    folder: Path, findings: Sequence[Finding], unchecked: Sequence[str], duplicates: Duplicates
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = [
        {
            "harm": HARM[finding.harm],
            "topic": finding.topic,
            "text": finding.text,
            "remedy": finding.remedy,
            "share": round(finding.share, 4),
            "rows": {name: list(rows)[:_MOST_LISTED] for name, rows in finding.rows.items()},
        }
        for finding in findings
    ]
    write_json(folder / FINDINGS, {"findings": facts, "not_checked": list(unchecked)})
    for name, columns, rows in (
        (DUPLICATES, _PAIR, _pairs(duplicates)),
        (DROP, ("row", "reason"), _dropped(duplicates)),
    ):
        with open_writer(folder / name, columns=list(columns)) as write:
            write(list(rows))


_PAIR = ("split", "row", "of_split", "of_row", "similarity", "equal", "other_label")


def _pairs(duplicates: Duplicates) -> Iterator[dict[str, Any]]:
    """Yield a line for each repeat: the row, and the one that it repeats."""
    for repeat in duplicates.repeats:
        yield {
            "split": duplicates.names[repeat.second],
            "row": duplicates.numbers[repeat.second],
            "of_split": duplicates.names[repeat.first],
            "of_row": duplicates.numbers[repeat.first],
            "similarity": round(repeat.similarity, 4),
            "equal": repeat.is_equal,
            "other_label": bool(duplicates.relabeled([repeat])),
        }


def _dropped(duplicates: Duplicates) -> Iterator[dict[str, Any]]:
    """Yield a line for each training row to leave out: those that leak, and all repeats."""
    reasons = dict.fromkeys(duplicates.within(TRAIN), "repeats another row of train")
    reasons |= dict.fromkeys(duplicates.leaking(), "occurs in a held-out split")
    for index, reason in sorted(reasons.items()):
        yield {"row": duplicates.numbers[index], "reason": reason}
