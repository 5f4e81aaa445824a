"""Finalization of a run: the selected weights, their metrics, the reports and final/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from finetune.config.best_metric import Direction, direction_of, selected_metric
from finetune.data.opening import Splits
from finetune.distributed.fsdp import is_sharded
from finetune.distributed.launch import environment
from finetune.export.card_data import CardData
from finetune.export.card_metadata import base_reference
from finetune.export.final_model import (
    TOLERANCE,
    Differences,
    Final,
    compute_outputs,
    export_model,
    relative_difference,
    sample_rows,
)
from finetune.export.model_card import write_cards
from finetune.export.reproduction import describe_reproduction
from finetune.inference.evaluate import Measured
from finetune.inference.evaluation_loop import Evaluation, summarize_again
from finetune.inference.split_reports import write_split_reports
from finetune.io.checkpoint import read_checkpoint
from finetune.io.run_folder import RunFolder, step_name
from finetune.model import HEAD, TransferModel, named_parts
from finetune.reporting.metric_tables import (
    Metrics,
    overall,
    show_results,
)
from finetune.reports.calibration import Calibration, choose_calibration, choose_scale
from finetune.reports.decisions import Decisions, learn_decisions, learn_score_threshold
from finetune.reports.intervals import quick_intervals
from finetune.reports.slices import measure_report
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows
from finetune.training.network import whole_model
from finetune.training.recorder import UNTRAINED, RunJournal, load_checkpoint_weights
from finetune.training.setup import Prepared
from finetune.training.state import Live, Progress
from finetune.training.summary import count_parameters, describe_run

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
    has_selected = prepared.validation is not None and progress.best_step is not None
    selected = "validation" if has_selected else None
    # A trial of a search is compared as it was during training. Only the best one is finished:
    # calibrated, measured on test, and with reports.
    is_trial = journal.hooks is not None
    evaluations, calibration = _evaluate(prepared, journal, selected)
    decisions = None
    if not is_trial:
        scale = calibration.scale if calibration is not None else None
        evaluations, decisions = _decide(prepared, journal, evaluations, scale)
    model = whole_model(live)
    if model is not None and calibration is not None and calibration.factors is not None:
        model.scale_outputs(calibration.factors)  # one gathered from shards is a new one
    if model is not None and live.accelerator.is_main_process:
        results = {name: evaluation.metrics for name, evaluation in evaluations.items()}
        divided, intervals = dict[str, Any](), dict[str, dict[str, list[float]]]()
        if not is_trial:
            with console.during("writing the reports"):
                _write_reports(model, prepared, evaluations, folder, splits)
            with console.during("measuring slices"):
                divided = _measure_report(
                    model, prepared, evaluations, splits, is_trial=journal.hooks is not None
                )
                intervals = {
                    name: quick_intervals(live.task, evaluation.stats)
                    for name, evaluation in evaluations.items()
                }
        card_data = collect_card_data(prepared, splits, results, selected, step)
        if calibration is not None:
            card_data = replace(card_data, calibration=calibration.facts())
        if decisions is not None:
            card_data = replace(card_data, decisions=decisions.facts())
        base = base_reference(live.config, card_data.about)
        card_data = replace(
            card_data,
            slices=divided,
            intervals=intervals,
            reproduction=describe_reproduction(
                folder.read("run.json"), live.config, prepared.reasons, base, results, intervals
            ),
        )
        with console.during("saving the final model and reloading it"):
            differences = _export(model, prepared, folder, card_data)
        facts = {
            "step": step,
            "steps": progress.step,
            "seconds": round(seconds, 3),
            "parameters": {"trained": trained, "total": total},
            **metric_facts(live.config.train.best, live.task, results),
            "metrics": results,
            "intervals": intervals,
            "selected_on": selected,
            **({"is_trial": True} if is_trial else {}),
            **({"row_groups": journal.by_group} if journal.by_group else {}),
            **({"calibration": calibration.facts()} if calibration is not None else {}),
            **({"decisions": decisions.facts()} if decisions is not None else {}),
            **divided,
            "reload_difference": differences.reloaded,
            "rounding_difference": differences.rounded,
        }
        folder.write("results.json", facts)
        test = evaluations.get("test")  # remarks on validation have been shown
        if test and (remark := live.task.views.remark(test.stats, test.metrics, {})):
            console.print(f"test: {remark}")
        show_results(folder, console)
    live.accelerator.wait_for_everyone()


def _evaluate(
    prepared: Prepared, journal: RunJournal, selected: str | None
) -> tuple[dict[str, Evaluation], Calibration | None]:
    """Calibrate the model, and evaluate it on the held-out splits.

    Without probabilities of labels, there is no calibration, nor for a trial of a search.
    """
    live, validation = prepared.live, prepared.validation
    evaluations, calibration = dict[str, Evaluation](), None
    if validation is not None:
        evaluations[validation.name] = journal.measure(validation)
        if journal.hooks is not None:
            if live.accelerator.is_main_process:
                journal.hooks.finished(live, evaluations[validation.name])
            return evaluations, None
        calibration = _calibrate(prepared, journal, evaluations[validation.name], selected)
        if calibration is not None and calibration.factors is not None:
            evaluations = {}
    for split in prepared.held_out:
        if split.name not in evaluations:
            evaluations[split.name] = journal.measure(split)
    for name in list(evaluations)[-1:]:  # test, where there is one
        scores = live.task.views.label_scores(evaluations[name].stats)
        items = live.task.views.item_scores(evaluations[name].stats)
        if scores is None and items is None:
            continue
        if calibration is None:
            calibration = Calibration(
                None,
                "not calibrated: there is no validation split; data.validation=0.1 holds one out",
            )
        is_changed = calibration.factors is not None or calibration.scale is not None
        if scores is not None and (name == "test" or not is_changed):
            calibration.measure(name, scores)
        elif items is not None and (name == "test" or not is_changed):
            calibration.measure_items(name, items)
    return evaluations, calibration


def _decide(
    prepared: Prepared,
    journal: RunJournal,
    evaluations: dict[str, Evaluation],
    scale: Sequence[float] | None,
) -> tuple[dict[str, Evaluation], Decisions | None]:
    """Learn thresholds or prediction sets from the validation split; measure them on test.

    `scale` is that of scores of items, if there is one.
    """
    live, validation = prepared.live, prepared.validation
    task = live.task
    if validation is None:
        return evaluations, None
    stats, asked = evaluations[validation.name].stats, live.config.task.learns_thresholds
    if asked and (items := task.views.item_scores(stats)) is not None:
        learned = learn_score_threshold(items, scale, split=validation.name)
        task.views.keep_decisions(learned.state())
        return evaluations, learned
    selected = selected_metric(live.config.train.best, task.metric, task.views.metric_names())
    decisions = learn_decisions(
        task.views.label_scores(stats),
        selected[0] if selected is not None else task.metric[0],
        split=validation.name,
        with_thresholds=asked,
    )
    if decisions is None:
        return evaluations, None
    task.views.keep_decisions(decisions.state())
    if decisions.thresholds is not None:
        splits = {split.name: split for split in prepared.held_out}
        evaluations = {
            name: journal.with_worst_group(splits[name], summarize_again(each, task))
            for name, each in evaluations.items()
        }
    if prepared.test is not None:
        scores = task.views.label_scores(evaluations[prepared.test.name].stats)
        assert scores is not None, "both splits have labels"
        decisions.measure(prepared.test.name, scores)
    return evaluations, decisions


def _calibrate(
    prepared: Prepared, journal: RunJournal, evaluation: Evaluation, selected: str | None
) -> Calibration | None:
    """Choose a calibration by the validation split, and scale the outputs of the model by it.

    That of scores of items is kept by the task, beside the network.
    """
    live = prepared.live
    scores = live.task.views.label_scores(evaluation.stats)
    items = live.task.views.item_scores(evaluation.stats)
    if scores is None and items is None:
        return None
    assert prepared.validation is not None
    candidates = [line for line in journal.folder.history() if line["split"] == selected]
    several = sum(line["step"] > 0 for line in candidates) > 1
    wish, split = live.config.output.calibrate, prepared.validation
    if items is not None:
        calibration = choose_scale(items, wish, split=split.name, selected=several)
        live.task.views.keep_scale(calibration.scale)
        return calibration
    calibration = choose_calibration(scores, wish, split=split.name, selected=several)
    if calibration.factors is None:
        return calibration
    live.model.scale_outputs(calibration.factors)
    if is_sharded(live.model) or _folds(live, sample_rows(split.rows), calibration.factors):
        return calibration
    live.model.scale_outputs([1.0] * len(calibration.factors))
    return Calibration(None, "not calibrated: the last layer of this network is not its logits")


def _folds(live: Live, rows: Sequence[Row], factors: Sequence[float]) -> bool:
    """True if the network alone gives the scaled outputs once the factors are folded into it."""
    device = live.accelerator.device
    # Without the autocast of training, whose rounding would hide the difference.
    model = live.accelerator.unwrap_model(live.model, keep_fp32_wrapper=False)
    heads = [parameter for _, parameter, part in named_parts(model) if part == HEAD]
    kept = [parameter.detach().clone() for parameter in heads]
    scaled = compute_outputs(model, live.task, rows, device)
    model.consolidate()
    difference = relative_difference(scaled, compute_outputs(model, live.task, rows, device))
    with torch.no_grad():
        for parameter, value in zip(heads, kept, strict=True):
            parameter.copy_(value)
    model.scale_outputs(factors)
    return difference <= TOLERANCE


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


def _measure_report(
    model: TransferModel,
    prepared: Prepared,
    evaluations: Mapping[str, Evaluation],
    splits: Splits,
    *,
    is_trial: bool,
) -> dict[str, Any]:
    """Measure slices and groups of the test split, or of validation without one.

    A trial of a search, of which there are many, has only the slices that its config names.
    """
    config = prepared.live.config
    report = config.report
    if is_trial and report.slices is None:
        report = report.model_copy(update={"slices": "none"})
    for split in prepared.held_out[-1:]:
        numbers = split.numbers(splits.numbers[split.name])
        evaluation, rows = evaluations[split.name], splits.named[split.name]
        measured = Measured(model, prepared.live.task, rows, split, numbers, evaluation)
        return measure_report(measured, report, seed=config.train.seed)
    return {}


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
        labels=_counts_by_label(prepared),
        label_unit=live.task.rows.label_unit,
        added=prepared.added,
        notes=splits.notes,
        facts=describe_run(prepared),
        results=results,
        selected=selected,
        step=step,
        versions={name: versions[name] for name in VERSIONS},
    )


def _counts_by_label(prepared: Prepared) -> dict[str, dict[str, int]]:
    """Return {label: {split: count}}, most frequent first."""
    counts_by_label: dict[str, dict[str, int]] = {}
    for split, labels in prepared.labels.items():
        for label, count in labels.counts.items():
            counts_by_label.setdefault(label, {})[split] = count
    return dict(sorted(counts_by_label.items(), key=lambda item: -sum(item[1].values())))
