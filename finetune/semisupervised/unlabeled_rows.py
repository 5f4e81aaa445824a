"""From the rows of data.unlabeled to training rows with pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from datasets import Dataset

from finetune.analysis.requirements import check_analysis
from finetune.batching.data_loader import Split, measure_split
from finetune.batching.joined_rows import join_splits
from finetune.errors import ConfigError
from finetune.model import TransferModel
from finetune.reporting.run_facts import AddedRows
from finetune.semisupervised.fixmatch_head import train_fixmatch_head
from finetune.semisupervised.gan_head import train_gan_head
from finetune.semisupervised.held_out_check import (
    HeldOutCheck,
    Learner,
    accept,
    check_held_out,
    count_folds,
)
from finetune.semisupervised.label_spreading import spread_labels
from finetune.semisupervised.partly_labeled import Floats, PartlyLabeled, unit_vectors
from finetune.semisupervised.self_training import self_train
from finetune.semisupervised.strong_views import TEXT_VIEWS, alter_texts
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows
from finetune.task_parts.views import LabelScores

LEARNERS: Mapping[str, Learner] = MappingProxyType(
    {
        "self-training": self_train,
        "label-spreading": spread_labels,
        "gan": train_gan_head,
        "fixmatch": train_fixmatch_head,
    }
)
_IMAGE_VIEWS = 3

Compute = Callable[[Split, int], Split]
"""(split, number of views) -> the split with its features; several views are augmented."""


def add_pseudo_labeled(
    method: str,
    seed: int,
    task: Task,
    model: TransferModel,
    train: Split,
    unlabeled: Dataset,
    compute: Compute,
) -> tuple[Split, AddedRows | None, list[str]]:
    """Join unlabeled rows to train, if the check on held-out rows says that this helps.

    `train` has features. Also returns what has joined, and notes, the first of which says what the
    check has found. Raises ConfigError for a task whose rows do not have exactly one label.
    """
    key = f"train.semi={method}"
    scores = _label_scores(key, task, model, train)
    if count_folds(scores.truth.argmax(1), len(scores.names)) < 2:  # no need for features
        return train, None, [_fallback(key, None)]
    pool, _, notes = measure_split("unlabeled", unlabeled, task)
    pool = compute(pool, 1)
    strong = _strong_views(key, task, pool, compute, seed) if method == "fixmatch" else []
    data = PartlyLabeled(
        _vectors(train), scores.truth.argmax(1), _vectors(pool), len(scores.names), strong
    )
    learn = LEARNERS[method]
    check = check_held_out(data, learn, seed)
    if check is None or not check.passed:
        return train, None, [_fallback(key, check), *notes]
    chosen, classes = accept(learn(data, seed))
    first_of_class = {int(name): int(np.argmax(data.classes == name)) for name in set(classes)}
    exemplars = [first_of_class[name] for name in classes.tolist()]
    joined = join_splits(train, pool, chosen.tolist(), exemplars, task.rows.targets)
    counts = np.bincount(classes, minlength=data.count).tolist()
    added = AddedRows("pseudo-labeled", key, dict(zip(scores.names, counts, strict=True)))
    shares = ", ".join(f"{name} {count}" for name, count in added.counts.items())
    note = (
        f"{key}: {len(chosen)} of {len(pool)} unlabeled rows joined train with pseudo-labels "
        f"({shares}); {_compare(check)}"
    )
    return joined, added, [note, *notes]


def check_pseudo_labels(method: str, task: Task) -> None:
    """Raise ConfigError without the library, and for images that the task does not augment."""
    check_analysis(f"train.semi={method}")
    if method == "fixmatch" and task.config.reads_images and not task.augments:
        raise ConfigError(_no_views(f"train.semi={method}"))


def computed_views(method: str, task: Task) -> int:
    """Return how many times the features of an unlabeled row are computed, each of another view."""
    if method != "fixmatch":
        return 1
    return 1 + (_IMAGE_VIEWS if task.augments else len(TEXT_VIEWS))


def _label_scores(key: str, task: Task, model: TransferModel, train: Split) -> LabelScores:
    assert train.features is not None
    places = range(len(train))
    batch = task.collate(train.features.samples(places))
    device = next(model.parameters()).device
    features = {name: value.to(device) for name, value in train.features.take(places).items()}
    outputs = model.eval()({"features": features})
    stats = {n: v.detach().float().cpu() for n, v in task.measure(outputs.cpu(), batch).items()}
    scores = task.views.label_scores(stats)
    if scores is None or not scores.exclusive:
        raise ConfigError(
            f"{key}: only for rows with exactly one label, which those of this {task.name} do not "
            "have; leave train.semi and data.unlabeled out"
        )
    return scores


def _vectors(split: Split, view: int = 0) -> Floats:
    assert split.features is not None
    places = range(len(split))
    (values,) = split.features.take(places, [view] * len(split)).values()
    return unit_vectors(values.flatten(1).numpy())


def _strong_views(key: str, task: Task, pool: Split, compute: Compute, seed: int) -> list[Floats]:
    """Return the vectors of strong views: augmented images, or altered texts."""
    if task.augments:
        augmented = compute(pool, _IMAGE_VIEWS)
        return [_vectors(augmented, view) for view in range(_IMAGE_VIEWS)]
    rows = [{n: row[n] for n in task.rows.inputs} for row in take_rows(pool.rows, range(len(pool)))]
    if task.config.reads_images or not all(map(_is_text, rows)):
        raise ConfigError(_no_views(key))
    found = []
    for number, view in enumerate(TEXT_VIEWS):
        altered = Dataset.from_list(alter_texts(rows, view, seed))
        split, _, _ = measure_split(f"unlabeled, view {number + 1}", altered, task)
        found.append(_vectors(compute(split, 1)))
    return found


def _no_views(key: str) -> str:
    return (
        f"{key}: needs altered views of the rows; augment images with the keys of the task, such "
        "as task.augmentation=light, or use train.semi=self-training"
    )


def _is_text(row: Row) -> bool:
    return all(isinstance(cell, str) for cell in row.values())


def _fallback(key: str, check: HeldOutCheck | None) -> str:
    if check is None:
        why = "a class has a single labeled row, so the gain cannot be checked"
    else:
        why = f"no gain on held-out labeled rows: {_compare(check)}"
    return f"warning: {key}: not used, train stays as it is: {why}"


def _compare(check: HeldOutCheck) -> str:
    (before, loss_before), (after, loss_after) = check.plain, check.helped
    return (
        f"cross-validated on {check.rows} labeled rows: accuracy {after:.3f} with them, "
        f"{before:.3f} without; log loss {loss_after:.3f}, {loss_before:.3f}"
    )
