"""Calibration of a finished model on rows named later: the command `calibrate`.

Thresholds and prediction sets are learned from the same rows, with the calibrated probabilities.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.source import Source
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError
from finetune.export.final_model import (
    TOLERANCE,
    compute_outputs,
    relative_difference,
    sample_rows,
)
from finetune.export.model_card import (
    CALIBRATION_HEADING,
    DECISIONS_HEADING,
    calibration_section,
    decisions_section,
)
from finetune.inference.evaluate import Measured, evaluate_source
from finetune.inference.model_loading import model_folder, read_task
from finetune.io.files import atomic, write_json
from finetune.io.manifest import read_manifest, write_manifest
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import CALIBRATION_COLUMNS, calibration_rows
from finetune.reports.calibration import Calibration, choose_calibration, choose_scale
from finetune.reports.decisions import Decisions, learn_decisions, learn_score_threshold
from finetune.reports.temperature import scale_scores
from finetune.task import Task
from finetune.task_parts.views import ItemScores, LabelScores


def calibrate_model(
    run: str, source: Source, console: Console, batch_size: int, *, trust_code: bool = False
) -> Calibration:
    """Fit temperatures to labeled rows and fold them into final/; return what they changed.

    Scores of items, such as boxes, get a scale instead, which is kept in final/task.json.
    The rows should be neither those of training nor those of a later test. Raises ConfigError for a
    task without probabilities of labels, and for a model that is not on this machine.
    """
    if not Path(run).is_dir():
        raise ConfigError(f"{run}: not a folder; download the model first, then name its folder")
    measured = evaluate_source(run, source, console, batch_size, trust_code=trust_code)
    scores = measured.task.views.label_scores(measured.evaluation.stats)
    items = measured.task.views.item_scores(measured.evaluation.stats)
    # The card says it, too: not the folder.
    name = Path(measured.split.name).name
    folder = model_folder(run)
    if items is not None:
        calibration, decisions = _scale_items(measured, items, name)
        if calibration.scale is None:
            raise ConfigError(f"{run}: {calibration.note}")
    elif scores is not None:
        calibration, decisions = _scale_labels(measured, scores, name)
    else:
        raise ConfigError(
            f"{run}: this task predicts neither probabilities of labels nor scores of boxes to "
            "calibrate"
        )
    if this_process().is_main_process:
        _save(measured, calibration, decisions, folder)
        record = RunFolder(folder.parent)
        if record.finished and record.final == folder:
            facts = {"calibration": calibration.facts()}
            facts |= {} if decisions is None else {"decisions": decisions.facts()}
            record.write("results.json", record.read("results.json") | facts)
    rows = calibration_rows(calibration.facts())
    console.table("calibration, with 95 % intervals", list(CALIBRATION_COLUMNS), rows)
    notes = {"calibration": calibration.note, "decisions": decisions.note if decisions else ""}
    console.facts({title: note for title, note in notes.items() if note} | {"model": str(folder)})
    return calibration


def _scale_labels(
    measured: Measured, scores: LabelScores, name: str
) -> tuple[Calibration, Decisions | None]:
    task = measured.task
    calibration = choose_calibration(scores, "temperature", split=name, selected=None)
    assert calibration.factors is not None
    decisions = learn_decisions(
        scale_scores(scores, np.array(calibration.factors)),
        task.metric[0],
        split=name,
        with_thresholds=task.config.learns_thresholds,
    )
    return calibration, decisions


def _scale_items(
    measured: Measured, items: ItemScores, name: str
) -> tuple[Calibration, Decisions | None]:
    task = measured.task
    calibration = choose_scale(items, "temperature", split=name, selected=None)
    decisions = None
    if task.config.learns_thresholds:
        decisions = learn_score_threshold(items, calibration.scale, split=name)
    return calibration, decisions


def _save(
    measured: Measured, calibration: Calibration, decisions: Decisions | None, folder: Path
) -> None:
    """Write the scaled model in place of the folder, which stays as it is if anything fails."""
    model, task = measured.model, measured.task
    rows = sample_rows(measured.split.rows)
    device = next(model.parameters()).device
    if calibration.factors is None:
        task.views.keep_scale(calibration.scale)
        _write(folder, calibration, decisions, task, lambda temporary: None)
        return
    names = [name for name, _ in model.network.named_parameters()]
    before = {name: model.network.get_parameter(name).detach().clone() for name in names}
    model.scale_outputs(calibration.factors)
    scaled = compute_outputs(model, task, rows, device)
    model.consolidate()
    changed = [n for n in names if not before[n].equal(model.network.get_parameter(n))]
    if relative_difference(scaled, compute_outputs(model, task, rows, device)) > TOLERANCE:
        raise ConfigError(f"{folder}: the last layer of this network is not its logits")

    def save_network(temporary: Path) -> None:
        task.save(model, temporary)
        _scale_adapter(temporary / "adapter", model.network, changed)

    _write(folder, calibration, decisions, task, save_network)


def _write(
    folder: Path,
    calibration: Calibration,
    decisions: Decisions | None,
    task: Task,
    save_network: Callable[[Path], None],
) -> None:
    """Replace the folder atomically by a copy with the network, the task's state and the card."""
    own = set(read_manifest(folder, read_task(folder).get("files", [])))
    with atomic(folder) as temporary:
        shutil.copytree(folder, temporary)
        save_network(temporary)
        if decisions is not None:
            task.views.keep_decisions(decisions.state())
        if decisions is not None or calibration.scale is not None:
            saved = read_task(folder) | {"state": task.state()}
            write_json(temporary / "task.json", saved)
        for card in (temporary / "README.md", temporary / "adapter" / "README.md"):
            if card.is_file():
                text = card.read_text(encoding="utf-8")
                text = _with_section(
                    text, CALIBRATION_HEADING, calibration_section(calibration.facts())
                )
                lines = decisions_section(decisions.facts()) if decisions is not None else ()
                card.write_text(_with_section(text, DECISIONS_HEADING, lines), encoding="utf-8")
        write_manifest(temporary, own)


def _scale_adapter(folder: Path, network: Any, changed: list[str]) -> None:
    """Copy the changed weights of the head into the adapter, which holds the head as well."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for key in tensors:
        for name in changed:
            if key.endswith(f".{name}"):
                tensors[key] = network.get_parameter(name).detach().cpu().contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _with_section(card: str, heading: str, lines: Iterable[str]) -> str:
    """Return a card with a section of the results replaced, or added before the usage.

    Without `lines`, the card is left as it is.
    """
    if not (body := list(lines)):
        return card
    section = "\n".join([heading, "", *body, ""])
    without = re.sub(rf"^{heading}$.*?(?=^#|^Reload check|^No rows)", "", card, flags=re.M | re.S)
    return re.sub(r"^(?=## Usage$)", lambda _: section, without, count=1, flags=re.M)
