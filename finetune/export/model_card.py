"""The card of a fine-tuned model: what was trained on what, and what was measured.

It claims nothing else, and names no folder of the machine that it was written on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.config.yaml import flatten
from finetune.export.card_data import CardData
from finetune.export.card_metadata import base_id, base_reference, data_reference, front_matter
from finetune.export.limitations import find_limits
from finetune.reporting.console import format_setting, format_value
from finetune.reporting.metric_tables import BY_LABEL, by_label, overall
from finetune.task_parts import BASE, REPOSITORY

MOST_LABELS = 50
ADAPTER_HEADING = "### The adapter"
_PATH = re.compile(r"(?<![\w/:.])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\,;:()'\"]+){2,}")


def write_cards(story: CardData, *, with_adapter: bool) -> dict[str, str]:
    """{path in final/: text} of the model's card, and of its adapter's where peft can load that."""
    cards = {"README.md": write_card(story, "finetune", with_adapter=with_adapter)}
    if with_adapter and story.about.adapter_code:
        cards["adapter/README.md"] = write_card(story, "adapter")
    return cards


def write_card(story: CardData, relation: str, *, with_adapter: bool = False) -> str:
    """The text of README.md; `relation` is what the model is to its base: "finetune", "adapter"."""
    config, about = story.config, story.about
    base = base_reference(config, about)
    kind = f"{story.adapter} of" if relation == "adapter" else "Fine-tuned from"
    lines = [
        front_matter(config, about, story.results, relation),
        *("", f"# {REPOSITORY}", ""),
        f"{kind} `{base}` for {config.task.name.rpartition(':')[2]} on `{data_reference(config)}`, "
        f"by method `{config.method.name}` of finetune-kit. Every number below was measured by the "
        "run that trained it; what is not here was not measured.",
        *("", "## Results", "", *_results(story)),
        *("## Use", "", *_use(story, relation, base, with_adapter)),
        *("## Data", "", *_data(story)),
        *("## Training", "", *_training(story)),
        *("## Limits", "", *(f"- {text}" for text in find_limits(story)), ""),
    ]
    return _without_folders("\n".join(lines))


def without_adapter(text: str) -> str:
    """A card without the part on the adapter, for a place where that is not."""
    return re.sub(rf"^{ADAPTER_HEADING}$.*?(?=^## )", "", text, count=1, flags=re.M | re.S)


def renamed(text: str, repository: str) -> str:
    """A card for another place: its title says what the model is called there now."""
    title = re.search(r"^# (.*)$", text, re.M)
    is_place = title and re.fullmatch(r"[\w.-]+/[\w.-]+", title[1])
    old = re.escape(title[1] if title and is_place else REPOSITORY)
    return re.sub(rf"(?<![\w./-]){old}(?![\w/-]|\.\w)", lambda _: repository, text)


def _results(story: CardData) -> Iterator[str]:
    for split, metrics in story.results.items():
        mark = ""
        if split == story.selected:
            mark = ", the split that selected the checkpoint, so a little too good"
        yield f"On {split}, {len(story.lengths[split])} rows{mark}:"
        yield from ("", *_table(["metric", "value"], overall(metrics).items()), "")
        labels = by_label(metrics)[:MOST_LABELS]
        if labels:
            yield from (*_table(["label", *BY_LABEL], labels), "")
    if not story.results:
        yield from ("No row was held out, so nothing was measured.", "")
    yield (
        f"Saved, reloaded by its own library and compared on rows of the data, its outputs differ "
        f"by {story.difference:.1e} of the largest."
    )
    yield ""


def _use(story: CardData, relation: str, base: str, with_adapter: bool) -> Iterator[str]:
    about = story.about
    adapter_code = about.adapter_code.replace(BASE, base)
    if relation == "adapter":
        yield from ("With peft:", "", *_code(adapter_code))
        if not base_id(story.config, about):
            yield (
                f"`{base}` is no id of a hub: it is what the network was called where it was "
                "trained. Load the same weights from where you have them."
            )
            yield ""
        return
    if about.code:
        library = about.library if about.library != "finetune-kit" else "plain libraries"
        yield from (f"With {library}:", "", *_code(about.code))
    kit = f'import finetune\n\npredictor = finetune.load("{REPOSITORY}")\npredictor([...])'
    yield from ("With finetune-kit, which keeps what rows are read as:", "", *_code(kit))
    if with_adapter and adapter_code:
        told = adapter_code if base_id(story.config, about) else ""
        yield from (ADAPTER_HEADING, "", *_nested(told, story.adapter, base))


def _nested(code: str, adapter: str, base: str) -> Iterator[str]:
    """How the adapter in the model's own folder is used; no code: its network is no hub's."""
    if code:
        nested = code.replace(f'"{REPOSITORY}"', f'"{REPOSITORY}", subfolder="adapter"')
        yield from ("`adapter/` alone, with peft:", "", *_code(nested))
        return
    yield (
        f"`adapter/` is the {adapter} of `{base}`, which is no id of a hub, so no code for it "
        "would run as it stands here; its own card shows the code for weights that are at hand."
    )
    yield ""


def _data(story: CardData) -> Iterator[str]:
    rows = []
    for split, lengths in story.lengths.items():
        cut = [length for length in lengths if length.cut]
        rows.append([split, len(lengths), len(cut)])
    yield from (*_table(["split", "rows", "of them cut"], rows), "")
    if story.labels:
        splits = list(story.lengths)
        counts = [
            [label, *(by_split.get(split, 0) for split in splits)]
            for label, by_split in list(story.labels.items())[:MOST_LABELS]
        ]
        yield from (*_table(["label", *splits], counts), "")
        if len(story.labels) > MOST_LABELS:
            yield from (f"and {len(story.labels) - MOST_LABELS} more labels.", "")
    if story.notes:
        yield from (*(f"- {note}" for note in story.notes), "")


def _training(story: CardData) -> Iterator[str]:
    told = story.facts
    facts = {
        "length": told.length,
        "network": told.network,
        "parameters": told.parameters,
        "device": told.device,
        "steps": told.steps,
        "batch": told.batch,
        "choices": "; ".join(told.choices),
    }
    yield from (*_table(["", ""], ((name, text) for name, text in facts.items() if text)), "")
    values = {key: value for key, value in flatten(story.config).items() if value is not None}
    untold = story.config.keys_of("place_keys")
    shown = {key: value for key, value in values.items() if key not in untold}
    typed = [(key, format_setting(value)) for key, value in shown.items()]
    yield from (*_table(["key", "value"], typed), "")
    versions = ", ".join(f"{name} {value}" for name, value in story.versions.items())
    yield from ([f"Weights of step {story.step}; {versions}.", ""] if versions else [])


def _code(text: str) -> list[str]:
    return ["```python", text.strip(), "```", ""]


def _table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """A table as the lines of its Markdown."""
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(value: Any) -> str:
    # A bar would end the cell, a new line the table.
    return " ".join(format_value(value).split()).replace("|", "\\|")


def _without_folders(text: str) -> str:
    """Paths of this machine as their last part: a card is read elsewhere."""
    return _PATH.sub(lambda found: Path(found[0].replace("\\", "/")).name, text)
