"""Layout of a run folder, and reading and writing of its small files.

.lock .owner    lock of the training that runs in the folder
config.yaml     config with all defaults filled in
run.json        config as given, digests of the data, environment
metrics.jsonl   one line per log entry and per evaluation
checkpoints/    step-000400/ ...
contrastive/    step-000050/: the backbone after contrastive tuning, if there was any
last.json       best.json
reports/        <split>/: reports of the task on its results; predictions before training
trackers/       files written by trackers
results.json    written last: marks the run as finished
final/          the fine-tuned model
replaced/       an earlier run, until the one that replaces it has a checkpoint
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from finetune.config.retired import stored_section
from finetune.config.schema import RunConfig, Section
from finetune.config.text_files import (
    check_regular,
    parse_json,
    read_json_as,
    read_text,
    validate_as,
)
from finetune.config.yaml import flatten, parse_value, to_yaml
from finetune.errors import CheckpointError, ConfigError, shell_word
from finetune.io.files import remove_path, sync_to_disk, write_json, write_text
from finetune.io.references import list_runs, suggest_run
from finetune.io.run_lock import LOCK, OWNER
from finetune.io.state_shapes import HistoryLine, Results, RunRecord, StoredConfig

RUN = "run.json"
_FOLDERS = ("checkpoints", "contrastive", "final", "onnx", "reports", "trackers")
# run.json last, since it marks a run: what was moved before it can be moved back.
PARTS = ("results.json", "config.yaml", "metrics.jsonl", "best.json", "last.json", *_FOLDERS, RUN)
_REMOVED = ".replaced.removed"
_Section = TypeVar("_Section", bound=Section)
_SHAPES = {"run.json": RunRecord, "results.json": Results}
_FRESH = "use --fresh to start over"
_REMEDIES = {
    "results.json": "remove this file and run the training command again, which writes it again"
}


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and reading and writing of its small files."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def contrastive(self) -> Path:
        return self.path / "contrastive"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def replaced(self) -> Path:
        return self.path / "replaced"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        return (self.path / RUN).is_file()

    @property
    def has_config(self) -> bool:
        return (self.path / "config.yaml").is_file()

    @property
    def finished(self) -> bool:
        return (self.path / "results.json").is_file()

    def read(self, name: str) -> dict[str, Any]:
        """Read one of the JSON files. Raises CheckpointError if it is missing or damaged."""
        path = self.path / name
        try:
            value: dict[str, Any] = read_json_as(_SHAPES.get(name, dict[str, Any]), path)
            return value
        except FileNotFoundError as error:
            if self.exists and not self.finished:
                raise CheckpointError(self.describe_unfinished()) from error
            missing = path if self.path.is_dir() else self.path
            raise CheckpointError(f"{missing}: no such file or folder; {self._remedy()}") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}); {_REMEDIES.get(name, _FRESH)}"
            ) from error

    def write(self, name: str, value: Any) -> None:
        with self._writing(name):
            write_json(self.path / name, value)

    def point(self, last: int, best: int | None, value: float | None) -> None:
        """Write last.json and best.json, which name the last and the best checkpoint."""
        self.write("last.json", {"checkpoint": step_name(last), "step": last})
        if best is not None:
            self.write("best.json", {"checkpoint": step_name(best), "step": best, "value": value})

    def begin(
        self,
        given: RunConfig,
        digests: Mapping[str, str],
        environment: Mapping[str, Any],
        were_set: Collection[str] = (),
    ) -> None:
        """Create the folder, and record what identifies the run to a later command.

        `were_set` are the keys of the config that the user set.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            facts = {
                "given": flatten(given),
                "set": sorted(were_set),
                "data": {**digests},
                "environment": {**environment},
            }
            # Written first, since it marks the folder as that of a run.
            write_json(self.path / RUN, facts)
            self.checkpoints.mkdir(exist_ok=True)
            (self.path / "results.json").unlink(missing_ok=True)  # the run is being extended
        except OSError as error:
            raise ConfigError(
                f"output.dir: cannot write to {self.path} ({error}); name another folder"
            ) from error

    def read_config(self) -> dict[str, dict[str, Any]]:
        """Read the sections of config.yaml. Raises CheckpointError if it cannot be read."""
        path = self.path / "config.yaml"
        try:
            sections: dict[str, dict[str, Any]] = parse_value(read_text(path))
            validate_as(StoredConfig, sections)
            return sections
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file; {self._remedy()}") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); {_FRESH}") from error

    def read_section(self, name: str, schema: type[_Section]) -> _Section:
        """Read and validate a section of config.yaml. Raises CheckpointError."""
        values = self.read_config().get(name, {})  # {}: a run of an earlier version
        try:
            return stored_section(schema, values)
        except ValueError as error:
            path = self.path / "config.yaml"
            raise CheckpointError(f"{path}: {name}.{error}; {_FRESH}") from error

    def write_config(self, config: RunConfig) -> None:
        with self._writing("config.yaml"):
            write_text(self.path / "config.yaml", to_yaml(config))

    def set_aside(self) -> None:
        """Move the run to replaced/, where it stays until the next run has a checkpoint.

        A run without a checkpoint is removed instead if an earlier one is kept there already.
        """
        has_checkpoint = any(self.checkpoints.glob("step-*"))
        with self._writing(self.replaced.name):
            if (self.replaced / RUN).is_file() and not has_checkpoint:
                for name in PARTS:
                    remove_path(self.path / name)
            else:
                self.remove_replaced()
                self.replaced.mkdir()
                _move(self.path, self.replaced)

    def undo_replacement(self) -> None:
        """Move a run back that a killed command had moved to replaced/ only in part."""
        remove_path(self.path / _REMOVED)
        if self.replaced.is_dir() and not (self.replaced / RUN).is_file():
            _move(self.replaced, self.path)
            self.replaced.rmdir()

    def remove_replaced(self) -> None:
        """Remove replaced/; a kill in between leaves all of it or nothing."""
        if self.replaced.is_dir():
            self.replaced.replace(self.path / _REMOVED)
            remove_path(self.path / _REMOVED)

    def history(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl, without what a killed run or a power cut may leave at its end.

        That is an incomplete last line, or NULs. Raises CheckpointError for any other line that the
        kit did not write.
        """
        try:
            check_regular(self.metrics)
            *lines, _ = self.metrics.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(
                f"{self.metrics}: cannot be read ({error}); check its permissions, or {_FRESH}"
            ) from error
        while lines and b"\0" in lines[-1]:
            lines.pop()
        return [self._history_line(*line) for line in enumerate(lines, start=1)]

    def _history_line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            values: dict[str, Any] = parse_json(line.decode("utf-8"))
            validate_as(HistoryLine, values)
            return values
        except ValueError as error:
            raise CheckpointError(
                f"{self.metrics}: line {number} was not written by this kit or is damaged "
                f"({error}); remove that line"
            ) from error

    def cut_history(self, step: int) -> None:
        """Drop the lines after `step`, since a resumed run writes them again."""
        kept = [line for line in self.history() if line["step"] <= step]
        with self._writing(self.metrics.name):
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: Mapping[str, Any]) -> None:
        with self._writing(self.metrics.name), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def sync_history(self) -> None:
        """Flush metrics.jsonl to the disk: a checkpoint must not survive a power cut without it."""
        with self._writing(self.metrics.name), contextlib.suppress(FileNotFoundError):
            sync_to_disk(self.metrics)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.path / name}: cannot be written ({error}); the checkpoints are intact. "
                "Free some space, and run the same command again"
            ) from error

    def describe_unfinished(self) -> str:
        """Say how far a run without results has come, and how to finish it."""
        points = self.path / "last.json"
        step = self.read(points.name).get("step") if points.is_file() else None
        reached = f"its last checkpoint is of step {step}" if step else "it has no checkpoint yet"
        command = f"finetune train {shell_word(self.path / 'config.yaml')}"
        again = f", or run `{command}`" if self.has_config else ""
        return (
            f"{self.path}: this run is not finished, {reached}; repeat its training command to "
            f"finish it{again}"
        )

    def _remedy(self) -> str:
        if not self.path.is_dir():
            return suggest_run(self.path)
        if runs := list_runs(self.path):
            return f"this is a folder of runs; choose one of them: {runs}"
        return "this is not the folder of a run; name another folder"


def step_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def check_flags(*, fresh: bool, extend: bool) -> None:
    """Raise ConfigError for flags that contradict each other."""
    if fresh and extend:
        raise ConfigError(
            "--fresh and --extend: one starts the run over, the other trains it longer; give one "
            "of them"
        )


def check_free(folder: RunFolder) -> None:
    """Raise ConfigError for a path that is no folder, or one with content other than a run."""
    for path in (folder.path, *folder.path.parents):
        if path.exists() and not path.is_dir():
            kind = "a file" if path.is_file() else "not a folder"
            raise ConfigError(f"output.dir: {path} is {kind}; name a folder")
    if not folder.exists and has_other_files(folder.path):
        raise ConfigError(
            f"output.dir: {folder.path} is not empty and not a run; name another folder"
        )


def has_other_files(folder: Path) -> bool:
    """True if a folder has content that a killed command of this kit does not leave behind."""
    ours = {f".{RUN}.partial", LOCK, OWNER, "replaced", _REMOVED}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    is_replaced = (folder / "replaced" / RUN).is_file()
    return not is_replaced and any(
        name not in ours and not name.startswith(f"{OWNER}.") for name in names
    )


def _move(source: Path, target: Path) -> None:
    for name in PARTS:
        if (source / name).exists():
            (source / name).replace(target / name)
    for folder in (source, target):
        sync_to_disk(folder)
