"""Finalization of a run: the selected weights, their metrics, the reports and final/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from finetune.config.best_metric import Direction, direction_of, selected_metric
from finetune.data.opening import Splits
from finetune.distributed.launch import environment
from finetune.export.card_data import CardData
from finetune.export.card_metadata import base_reference
from finetune.export.final_model import Differences, Final, export_model, sample_rows
from finetune.export.model_card import write_cards
from finetune.inference.evaluation_loop import Evaluation
from finetune.inference.split_reports import write_split_reports
from finetune.io.checkpoint import read_checkpoint
from finetune.io.run_folder import RunFolder, step_name
from finetune.model import TransferModel
from finetune.reporting.metric_tables import (
    Metrics,
    overall,
    show_results,
)
from finetune.task import Task
from finetune.task_parts import Prediction, take_rows
from finetune.training.network import whole_model
from finetune.training.recorder import RunJournal, load_checkpoint_weights
from finetune.training.setup import Prepared
from finetune.training.state import Progress
from finetune.training.summary import count_parameters, describe_run

UNTRAINED = "untrained.json"
# Rows whose predictions before and after training are compared side by side.
COMPARED = 40
# Versions that the model card lists.
VERSIONS = ("python", "torch", "transformers", "datasets")


def finalize_run(
    prepared: Prepared, progress: Progress, journal: RunJournal, splits: Splits
) -> None:
    """Evaluate the selected checkpoint, write reports, final/ and results.json, print results."""
    live, folder, console = prepared.live, journal.folder, journal.console
    seconds, (trained, total) = journal.seconds, count_parameters(live)
    step = progress.best_step if progress.best_step is not None else progress.step
    if step != progress.step:
        load_checkpoint_weights(live, read_checkpoint(folder.checkpoints / step_name(step)))
    if live.ema is not None:
        live.ema.copy_to_network()  # checkpoints keep the raw weights, so an extended run resumes
    evaluations = {split.name: journal.measure(split) for split in prepared.held_out}
    has_selected = prepared.validation is not None and progress.best_step is not None
    selected = "validation" if has_selected else None
    model = whole_model(live)
    if model is not None and live.accelerator.is_main_process:
        results = {name: evaluation.metrics for name, evaluation in evaluations.items()}
        if journal.hooks is not None:
            journal.hooks.finished(live, evaluations)
        with console.during("writing the reports"):
            _write_reports(model, prepared, evaluations, folder, splits)
        card_data = collect_card_data(prepared, splits, results, selected, step)
        with console.during("saving the final model and reloading it"):
            differences = _export(model, prepared, folder, card_data)
        facts = {
            "step": step,
            "steps": progress.step,
            "seconds": round(seconds, 3),
            "parameters": {"trained": trained, "total": total},
            **metric_facts(live.config.train.best, live.task, results),
            "metrics": results,
            "selected_on": selected,
            "reload_difference": differences.reloaded,
            "rounding_difference": differences.rounded,
        }
        folder.write("results.json", facts)
        test = evaluations.get("test")  # remarks on validation have been shown
        if test and (remark := live.task.views.remark(test.stats, test.metrics, {})):
            console.print(f"test: {remark}")
        show_results(folder, console)
    live.accelerator.wait_for_everyone()


def metric_facts(best: str | None, task: Task, metrics: Metrics) -> dict[str, Any]:
    """Return the metric that selects the checkpoint, and the direction of each metric."""
    known: dict[str, Direction] = dict([task.metric])
    selected = selected_metric(best, task.metric, task.views.metric_names())
    known |= dict([selected]) if selected is not None else {}
    names = dict.fromkeys(name for split in metrics.values() for name in overall(split))
    return {
        "metric": selected[0] if selected is not None else None,
        "directions": {name: known.get(name, direction_of(name)) for name in names},
    }


def _export(
    model: TransferModel, prepared: Prepared, folder: RunFolder, card_data: CardData
) -> Differences:
    live = prepared.live
    rows = sample_rows((prepared.test or prepared.validation or live.train).rows)
    final = Final(
        folder.final,
        live.config.task.name,
        base_reference(live.config, card_data.about),
        getattr(torch, live.config.output.dtype),
        cards=lambda difference, with_adapter: write_cards(
            replace(card_data, difference=difference), with_adapter=with_adapter
        ),
        trust_remote_code=live.config.model.trust_remote_code,
    )
    return export_model(model, live.task, live.method, rows, final)


def save_untrained(folder: RunFolder, split: str, predictions: Sequence[Prediction]) -> None:
    """Save some predictions from before the first step, for comparison with the final ones."""
    (folder.path / "reports" / split).mkdir(parents=True, exist_ok=True)
    folder.write(f"reports/{split}/{UNTRAINED}", {"predictions": list(predictions[:COMPARED])})


def _write_reports(
    model: TransferModel,
    prepared: Prepared,
    evaluations: Mapping[str, Evaluation],
    folder: RunFolder,
    splits: Splits,
) -> None:
    task = prepared.live.task
    for split in prepared.held_out:
        evaluation, target = evaluations[split.name], folder.path / "reports" / split.name
        numbers = split.numbers(splits.numbers[split.name])
        write_split_reports(model, task, split, evaluation, target, numbers)
        if (target / UNTRAINED).is_file() and evaluation.predictions:
            before = folder.read(f"reports/{split.name}/{UNTRAINED}")["predictions"]
            shown = take_rows(split.rows, range(len(before)))
            task.views.report_change(shown, before, evaluation.predictions[: len(before)], target)


def collect_card_data(
    prepared: Prepared,
    splits: Splits,
    results: Mapping[str, Mapping[str, float]],
    selected: str | None,
    step: int,
) -> CardData:
    """Collect the contents of the model card, just before the model is saved."""
    live = prepared.live
    versions = environment(live.accelerator)
    return CardData(
        config=live.config,
        about=live.task.views.card(live.model),
        adapter=live.method.adapter,
        lengths=prepared.lengths,
        length_unit=live.task.views.length_unit,
        labels=_count_labels(splits, live.task),
        label_unit=live.task.rows.label_unit,
        notes=splits.notes,
        facts=describe_run(prepared, splits),
        results=results,
        selected=selected,
        step=step,
        versions={name: versions[name] for name in VERSIONS},
    )


def _count_labels(splits: Splits, task: Task) -> dict[str, dict[str, int]]:
    """Return {label: {split: count}}, most frequent first, as `Rows.occurrences` has them."""
    counts_by_label: dict[str, dict[str, int]] = {}
    for split, rows in splits.named.items():
        counts: Counter[str] = Counter()
        for labels in map(task.rows.occurrences, rows):
            counts.update(labels)
        for label, count in counts.items():
            counts_by_label.setdefault(label, {})[split] = count
    return dict(sorted(counts_by_label.items(), key=lambda item: -sum(item[1].values())))
