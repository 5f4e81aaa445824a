"""Shapes of the JSON and YAML files of a run and of a final model, as they are read again."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Section = dict[str, Any]


class RunRecord(BaseModel):
    """run.json: the config as given, and the digests of the rows by split."""

    given: dict[str, Any]
    data: dict[str, str]


class StoredConfig(BaseModel):
    """config.yaml: the sections of the resolved config."""

    task: Section
    model: Section
    data: Section
    method: Section
    optim: Section
    train: Section
    output: Section


class Results(BaseModel):
    """results.json: metrics by split, and the differences that the reload check found.

    `is_trial` is true for a trial of a search: it has no reports, and no metrics on test.
    """

    step: int
    metrics: dict[str, dict[str, float]]
    selected_on: str | None
    reload_difference: float
    rounding_difference: float | None = None
    calibration: dict[str, Any] | None = None
    is_trial: bool = False


class Untrained(BaseModel):
    """reports/<split>/untrained.json: predictions from before the first step."""

    predictions: list[Any]


class HistoryLine(BaseModel):
    """A line of metrics.jsonl; its other keys are metrics."""

    step: int
    split: str


class SavedTask(BaseModel):
    """task.json: the name, config and learned state of a task, and the files of the model."""

    name: str
    config: Section
    state: dict[str, Any]
    files: list[str] = []


class Manifest(BaseModel):
    """manifest.json of a checkpoint: the size and the SHA-256 of each of its files."""

    class Facts(BaseModel):
        """Size and SHA-256 of a file."""

        bytes: int
        sha256: str

    step: int
    files: dict[str, Facts]


class CheckpointState(BaseModel):
    """state.json of a checkpoint: what is not a tensor."""

    progress: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
