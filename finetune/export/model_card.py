"""Model card of a fine-tuned model: base model, data, training settings and measured results.

It states nothing else, and never a path of the machine that it was written on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.yaml import flatten
from finetune.errors import format_count, mask_secrets
from finetune.export.card_data import CardData
from finetune.export.card_metadata import (
    IN_MEMORY,
    base_id,
    base_reference,
    data_reference,
    front_matter,
)
from finetune.export.limitations import find_limitations
from finetune.export.reproduction import reproduction_section
from finetune.reporting.console import format_setting, format_value
from finetune.reporting.metric_tables import (
    BY_LABEL,
    CALIBRATION_COLUMNS,
    SET_COLUMNS,
    by_label,
    calibration_rows,
    overall,
    set_rows,
)
from finetune.reporting.slice_tables import (
    GROUP_COLUMNS,
    SLICE_COLUMNS,
    group_note,
    group_rows,
    slice_note,
    slice_rows,
)
from finetune.task_parts.samples import Lengths
from finetune.task_parts.views import BASE, REPOSITORY

MOST_LABELS = 50
CALIBRATION_HEADING = "### Calibration"
SLICES_HEADING = "### Slices"
GROUPS_HEADING = "### Groups"
DECISIONS_HEADING = "### Thresholds and prediction sets"
ADAPTER_HEADING = "### The adapter"  # also in cards of older runs, which `push` edits
_NO_HUB_ID = "That base model has no hub id, so it must be loaded from a local copy."
_PATH = re.compile(r"(?<![\w/:.])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\,;:()'\"]+){2,}")


def write_cards(card: CardData, *, with_adapter: bool) -> dict[str, str]:
    """Return {path in final/: text} of the model's card, and the adapter's if peft can load it."""
    cards = {"README.md": write_card(card, "finetune", with_adapter=with_adapter)}
    if with_adapter and card.about.adapter_code:
        cards["adapter/README.md"] = write_card(card, "adapter")
    return cards


def write_card(card: CardData, relation: str, *, with_adapter: bool = False) -> str:
    """Return the text of README.md; `relation` to the base model is "finetune" or "adapter"."""
    config, about = card.config, card.about
    base, data = base_reference(config, about), data_reference(config)
    if relation == "adapter":
        subject = f"{card.adapter} for `{base}`, trained"
    else:
        subject = f"This model is `{base}`, fine-tuned"
    package_note = ""
    if "pkg://" in base + data:
        package_note = " `pkg://NAME/PATH` is a path in the Python package NAME."
    lines = [
        front_matter(config, about, card.results, relation),
        *("", f"# {REPOSITORY}", ""),
        f"{subject} for {config.task.name.rpartition(':')[2]} on "
        f"{data if data == IN_MEMORY else f'`{data}`'} with finetune-kit "
        f"(method `{config.method.name}`). All results below were measured by the training run; "
        f"anything not listed was not measured.{package_note}",
        *("", "## Results", "", *_results(card)),
        *("## Usage", "", *_use(card, relation, base, with_adapter)),
        *("## Data", "", *_data(card)),
        *("## Training", "", *_training(card)),
        *(reproduction_section(card.reproduction) if card.reproduction is not None else ()),
        *("## Limitations", "", *(f"- {text}" for text in find_limitations(card)), ""),
    ]
    return mask_secrets(_strip_folders("\n".join(lines)))


def remove_adapter_section(text: str) -> str:
    """Return a card without its section on the adapter, for a repository without the adapter."""
    return re.sub(rf"^{ADAPTER_HEADING}$.*?(?=^## )", "", text, count=1, flags=re.M | re.S)


def rename_card(text: str, repository: str) -> str:
    """Return a card with the placeholder or previous repository id replaced by `repository`.

    The previous id is the card's title.
    """
    title = re.search(r"^# (.*)$", text, re.M)
    is_repository = title and re.fullmatch(r"[\w.-]+/[\w.-]+", title[1])
    old = re.escape(title[1] if title and is_repository else REPOSITORY)
    return re.sub(rf"(?<![\w./-]){old}(?![\w/-]|\.\w)", lambda _: repository, text)


def rename_base(text: str, old: str, new: str) -> str:
    """Return a card whose base model is the hub id `new`, not a local copy called `old`."""
    if not old:
        return text
    quoted = rf"(?<=[`\"]){re.escape(old)}(?=[`\"])"
    named = re.sub(quoted, lambda _: new, text)
    without_local = re.sub(rf"^`{re.escape(new)}` is not a hub id .*\n\n?", "", named, flags=re.M)
    return without_local.replace(f" {_NO_HUB_ID}", "")


def _results(card: CardData) -> Iterator[str]:
    for split, metrics in card.results.items():
        size = format_count(len(card.lengths[split]), "row")
        bias = ""
        if split == card.selected:
            bias = "; optimistically biased: this split selected the checkpoint"
        yield f"Metrics on the {split} split ({size}{bias}):"
        yield from ("", *_metric_table(metrics, card.intervals.get(split, {})), "")
        labels = by_label(metrics)[:MOST_LABELS]
        if labels:
            yield from (*_table(["label", *BY_LABEL], labels), "")
    if card.calibration:
        yield from (CALIBRATION_HEADING, "", *calibration_section(card.calibration))
    if card.decisions:
        yield from (DECISIONS_HEADING, "", *decisions_section(card.decisions))
    yield from slices_section(card.slices)
    if not card.results:
        yield from ("No rows were held out, so no metrics were measured.", "")
    yield (
        "Reload check passed: the saved model, loaded with its own library, reproduces the outputs "
        f"of the trained model on rows of the data (max relative difference {card.difference:.1e})."
    )
    yield ""


def _metric_table(
    metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    """Yield a table of metrics, with their bootstrap intervals if there are any."""
    values = overall(metrics)
    if not intervals:
        return _table(["metric", "value"], values.items())
    rows = [[name, value, _interval(intervals.get(name, ()))] for name, value in values.items()]
    return _table(["metric", "value", "95% interval"], rows)


def _interval(estimate: Sequence[float]) -> str:
    return f"{estimate[1]:.4f} to {estimate[2]:.4f}" if len(estimate) == 3 else ""


def calibration_section(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on calibration, without its heading."""
    yield from (f"{facts['note'][:1].upper()}{facts['note'][1:]}.", "")
    if rows := calibration_rows(facts):
        yield from ("With 95% bootstrap intervals:", "")
        yield from (*_table(CALIBRATION_COLUMNS, rows), "")


def decisions_section(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on thresholds and prediction sets, without its heading."""
    yield from (f"{facts['note'][:1].upper()}{facts['note'][1:]}.", "")
    if thresholds := facts.get("thresholds"):
        yield "A label is predicted where its probability reaches its threshold:"
        yield from ("", *_table(["label", "threshold"], thresholds.items()), "")
    if rows := set_rows(facts):
        yield "A prediction set contains the true label with the coverage that was asked for:"
        yield from ("", *_table(SET_COLUMNS, rows), "")


def slices_section(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on slices and groups; none without them."""
    if slices := facts.get("slices"):
        note = slice_note(slices)
        yield from (SLICES_HEADING, "", f"{note[:1].upper()}{note[1:]}.", "")
        if rows := slice_rows(slices):
            yield from ("The worst ones, with 95% intervals:", "")
            yield from (*_table(SLICE_COLUMNS, rows), "")
    if doubtful := facts.get("doubtful"):
        count = f"{doubtful['rows']} of {doubtful['of']} rows of {doubtful['split']}"
        yield from (
            f"Estimate of label errors: {count} have a suspicious label, to which the model gives "
            "a low probability (confident learning); some of these are hard, not wrong.",
            "",
        )
    if groups := facts.get("groups"):
        yield from (GROUPS_HEADING, "")
        if rows := group_rows(groups):
            yield from ("The largest differences between groups:", "")
            yield from (*_table(GROUP_COLUMNS, rows), "")
        if note := group_note(groups):
            yield from (f"{note[:1].upper()}{note[1:]}.", "")


def _use(card: CardData, relation: str, base: str, with_adapter: bool) -> Iterator[str]:
    about = card.about
    adapter_code = about.adapter_code.replace(BASE, base)
    if relation == "adapter":
        yield from ("With peft:", "", *_code(adapter_code))
        if not base_id(card.config, about):
            yield (
                f"`{base}` is not a hub id but the name of the base model on the machine that "
                "trained this adapter; replace it with the path to your copy of the same weights."
            )
            yield ""
        return
    if about.code:
        label = (
            f"With {about.library}:" if about.library != "finetune-kit" else "Without finetune-kit:"
        )
        yield from (label, "", *_code(about.code))
    kit = (
        f'import finetune\n\npredictor = finetune.load("{REPOSITORY}")\n'
        "predictor([...])  # dicts with the input columns, or bare values such as texts"
    )
    yield from ("With finetune-kit, which reads and encodes rows as in training:", "", *_code(kit))
    if with_adapter and adapter_code:
        code = adapter_code if base_id(card.config, about) else ""
        yield from (ADAPTER_HEADING, "", *_adapter_use(code, card.adapter, base))


def _adapter_use(code: str, adapter: str, base: str) -> Iterator[str]:
    """Yield usage of the adapter in the model's folder; `code` is "" if its base has no hub id."""
    if code:
        nested = code.replace(f'"{REPOSITORY}"', f'"{REPOSITORY}", subfolder="adapter"')
        yield from (f"To load only the {adapter} in `adapter/` with peft:", "", *_code(nested))
        return
    yield (
        f"`adapter/` contains the {adapter} for `{base}`. {_NO_HUB_ID} The card in `adapter/` "
        "shows the code."
    )
    yield ""


def _data(card: CardData) -> Iterator[str]:
    columns, rows = ["split", "rows", "truncated"], []
    for split, lengths in card.lengths.items():
        rows.append([split, len(lengths), int((Lengths.of(lengths).cut > 0).sum())])
    if all((Lengths.of(lengths).used == 1).all() for lengths in card.lengths.values()):  # images
        columns, rows = columns[:2], [row[:2] for row in rows]
    yield from (*_table(columns, rows), "")
    if card.labels:
        yield from (f"{card.label_unit.capitalize()} per label:", "")
        splits = list(card.lengths)
        counts = [
            [label, *(by_split.get(split, 0) for split in splits)]
            for label, by_split in list(card.labels.items())[:MOST_LABELS]
        ]
        yield from (*_table(["label", *splits], counts), "")
        if len(card.labels) > MOST_LABELS:
            yield from (f"and {len(card.labels) - MOST_LABELS} more labels.", "")
    if card.added:
        yield from ("Trained on as well, and not counted above:", "")
        yield from (*(f"- {added}" for added in card.added), "")
    if card.notes:
        yield from ("Notes from reading the data:", "")
        yield from (*(f"- {note}" for note in card.notes), "")


def _training(card: CardData) -> Iterator[str]:
    run = card.facts
    facts = {
        "length": run.length,
        "network": run.network,
        "parameters": run.parameters,
        "device": run.device,
        "steps": run.steps,
        "batch": run.batch,
        "choices": "; ".join(run.choices),
    }
    shown_facts = ((name, text) for name, text in facts.items() if text)
    yield from (*_table(["property", "value"], shown_facts), "")
    values = {key: value for key, value in flatten(card.config).items() if value is not None}
    hidden = card.config.keys_of("place_keys")
    settings = [(key, format_setting(value)) for key, value in values.items() if key not in hidden]
    yield from ("All settings, including defaults:", "", *_table(["key", "value"], settings), "")
    versions = ", ".join(f"{name} {value}" for name, value in card.versions.items())
    yield from ([f"Checkpoint: step {card.step}. Versions: {versions}.", ""] if versions else [])


def _code(text: str) -> list[str]:
    return ["```python", text.strip(), "```", ""]


def _table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(value: Any) -> str:
    # A bar would end the cell, a line break the table.
    return " ".join(format_value(value).split()).replace("|", "\\|")


def _strip_folders(text: str) -> str:
    """Replace local paths by their last part: they mean nothing on another machine."""
    return _PATH.sub(lambda match: Path(match[0].replace("\\", "/")).name, text)
