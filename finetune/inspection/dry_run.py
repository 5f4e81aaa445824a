"""A dry run: the config, one row's path, steps, memory and time, printed by section."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.checks.before_training import open_checked_splits
from finetune.config.loading import Loaded
from finetune.config.yaml import flatten
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import format_count
from finetune.inspection.contact_sheet import check_sheet, draw_contact_sheet
from finetune.inspection.expected_rows import expect_rows
from finetune.inspection.row_trace import trace_row
from finetune.inspection.run_costs import estimate
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.training.run import check_settings, check_split_keys
from finetune.training.setup import Prepared, assemble
from finetune.training.summary import describe_run

_DEFAULT = "default"


@dataclass(frozen=True)
class Inspection:
    """A run that was inspected, by section: {fact: text}.

    Attributes:
        row: one row on its way from the data to a prediction.
        run: labels, lengths, network, parameters, steps and batches.
        estimates: memory and time.
    """

    row: dict[str, str]
    run: dict[str, str]
    estimates: dict[str, str]

    def __repr__(self) -> str:
        facts = {name: self.run[name] for name in ("parameters", "steps") if name in self.run}
        return f"Inspection({', '.join(f'{name}: {text}' for name, text in facts.items())})"


def inspect_run(
    loaded: Loaded,
    task: Task,
    sheet: Path | None = None,
    *,
    data: Any = None,
    with_defaults: bool = False,
) -> Inspection:
    """Print what `train` would do with this config; draw a contact sheet if `sheet` is given.

    First how the data were read, then one row on its way to a prediction, then the config: keys
    that were set or chosen, and those at their default `with_defaults`. `data` is a dataset made in
    Python, in place of data.source.

    Raises the FinetuneError that `train` would.
    """
    config = loaded.config
    if sheet is not None:
        check_sheet(sheet)
    check_settings(config)
    state = this_process()
    console = Console(enabled=state.is_main_process)
    with console.during("reading and checking the rows"):
        splits = open_checked_splits(config.data, task, data)
    check_split_keys(config, splits, task)
    accelerator = make_accelerator(choose_precision(config.train.precision, state.device)[0])
    with console.during("loading the network and encoding the rows"):
        prepared = assemble(config, task, splits, accelerator)
        expected = expect_rows(prepared, splits)
    if sheet is not None and state.is_main_process:
        draw_contact_sheet(prepared.live, sheet)

    console.heading("data")
    console.facts({"read": "\n".join([*loaded.notes, *splits.notes, splits.sizes])})
    console.heading("one row")
    row = trace_row(prepared)
    console.facts(row)
    console.heading("run")
    # The section "config" below shows the defaults.
    facts = describe_run(prepared).lines(with_defaults=False)
    facts |= {"added rows": expected.note} if expected is not None else {}
    facts |= task.views.survey(splits.train)
    console.facts(facts)
    console.heading("config")
    for line in config_lines(loaded, prepared, with_defaults=with_defaults):
        console.print(f"  {line}")
    console.heading("estimates")
    with console.during("timing a batch"):
        estimates = estimate(prepared, expected)
    console.facts(estimates)
    if sheet is None:
        console.print("dry run: nothing was trained, nothing was written")
    else:
        console.print(f"dry run: nothing was trained; contact sheet written to {sheet}")
    return Inspection(row, facts, estimates)


def config_lines(
    loaded: Loaded, prepared: Prepared, *, with_defaults: bool = False
) -> Iterator[str]:
    """Yield the keys that were set or chosen, each with its value and the origin of the value.

    `with_defaults` adds the keys at their default; without, a last line counts them.
    """
    before, values = flatten(loaded.config), flatten(prepared.live.config)
    origins = {key: _origin(key, loaded, prepared, values[key] != before[key]) for key in values}
    shown = [key for key in values if with_defaults or origins[key] != _DEFAULT]
    items = {key: f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in shown}
    width = max((len(item) for item in items.values() if len(item) < 60), default=0)
    for key, item in items.items():
        yield f"{item:<{width}}  {origins[key]}"
    if len(shown) < len(values):
        others = format_count(len(values) - len(shown), "key")
        yield f"and {others} left at the default; --all lists them"


def _origin(key: str, loaded: Loaded, prepared: Prepared, is_chosen: bool) -> str:
    if key in prepared.reasons:
        return prepared.reasons[key]
    return "chosen, see above" if is_chosen else loaded.origins.get(key, _DEFAULT)
