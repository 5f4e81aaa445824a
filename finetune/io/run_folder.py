"""Layout of a run folder, and the check that a command may resume the run in it.

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
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from finetune.config.retired import stored_section
from finetune.config.schema import RunConfig
from finetune.config.yaml import flatten, parse_value, to_yaml
from finetune.errors import CheckpointError, ConfigError, DataError
from finetune.io.files import write_json, write_text
from finetune.io.run_lock import LOCK, OWNER

OTHER_FILES = ("metrics.jsonl", "best.json", "last.json")


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
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    @property
    def has_config(self) -> bool:
        return (self.path / "config.yaml").is_file()

    @property
    def finished(self) -> bool:
        return (self.path / "results.json").is_file()

    def read(self, name: str) -> dict[str, Any]:
        """Read one of the JSON files. Raises CheckpointError if it is missing or not valid JSON."""
        path = self.path / name
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return value
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file; {self._remedy()}") from error
        except ValueError as error:
            raise CheckpointError(
                f"{path}: is not valid JSON ({error}); use --fresh to start over"
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
            write_json(self.path / "run.json", facts)
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
            sections: dict[str, dict[str, Any]] = parse_value(path.read_text(encoding="utf-8"))
            return sections
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); {self._remedy()}") from error

    def write_config(self, config: RunConfig) -> None:
        write_text(self.path / "config.yaml", to_yaml(config))

    def clear(self) -> None:
        """Remove the files of the run, and nothing else."""
        if not self.exists:
            return
        for name in ("checkpoints", "contrastive", "final", "reports", "trackers"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        # run.json last, since a folder without it does not count as a run.
        for name in ("results.json", "config.yaml", *OTHER_FILES, "run.json"):
            (self.path / name).unlink(missing_ok=True)

    def history(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; ignore a truncated last line, which a killed run may leave behind."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_history(self, step: int) -> None:
        """Drop the lines after `step`, since a resumed run writes them again."""
        kept = [line for line in self.history() if line["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: Mapping[str, Any]) -> None:
        with self._writing(self.metrics.name), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.path / name}: cannot be written ({error}); the checkpoints are intact. "
                "Free some space, and run the same command again"
            ) from error

    def _remedy(self) -> str:
        if not self.path.is_dir():
            return "give the folder of a run, such as runs/<name>"
        return (
            "this is not the folder of a run, or the run stopped too early; name another folder or "
            "run the training command again"
        )


def step_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def check_free(folder: RunFolder) -> None:
    """Raise ConfigError for a path that is a file or a folder with content other than a run."""
    if folder.path.is_file():
        raise ConfigError(f"output.dir: {folder.path} is a file; name a folder")
    names = {path.name for path in folder.path.iterdir()} if folder.path.is_dir() else set()
    if not folder.exists and names - {".run.json.partial", LOCK, OWNER}:
        raise ConfigError(
            f"output.dir: {folder.path} is not empty and not a run; name another folder"
        )


def check_same_run(
    folder: RunFolder, given: RunConfig, digests: Mapping[str, str], *, extend: bool
) -> RunConfig | None:
    """Return the config to resume with, if `given` describes the run in the folder.

    None if that run was killed before it wrote a config. Raises CheckpointError or DataError that
    lists the differences and the remedies.
    """
    if not folder.has_config:
        return None
    recorded, resolved = folder.read("run.json"), folder.read_config()
    lengths = given.keys_of("length_keys")
    free = given.keys_of("free_keys") | (lengths if extend else set())
    changed, differences = dict[str, Any](), dict[str, str]()
    for key, (value, before) in _changes(given, recorded["given"], resolved).items():
        if key in free:
            changed[key] = value
        else:
            differences[key] = f"  {key}: {_show(before)} in the run, {_show(value)} now"
    hint = "use --extend to train longer, or " if lengths & differences.keys() else ""
    replacing = "--fresh (in Python fresh=True) to replace this run"
    remedy = f"{hint}set output.dir=... for a second run, or use {replacing}"
    if differences:
        lines = [
            f"{folder.path}: contains a run with another config:",
            *differences.values(),
            f"  {remedy}",
        ]
        raise CheckpointError("\n".join(lines))
    if dict(digests) != recorded["data"]:
        names = sorted({name for name, _ in digests.items() ^ recorded["data"].items()})
        raise DataError(
            f"{folder.path}: the rows of {', '.join(names)} have changed since the run "
            f"started; {remedy}"
        )
    named_now = {key: flatten(given)[key] for key in given.keys_of("code_keys")}
    for key, value in (changed | named_now).items():
        section, _, leaf = key.partition(".")
        resolved[section][leaf] = value
    typed_sections = {
        name: stored_section(type(getattr(given, name)), resolved[name])
        for name in ("task", "method")
    }
    return RunConfig(**(resolved | typed_sections))


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def _changes(
    given: RunConfig, before: Mapping[str, Any], resolved: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Any, Any]]:
    """Return {key: (new value, old value)} of changed keys.

    A key is changed if it differs both from its value as given to the run and from the value that
    was filled in.
    """
    changes = {}
    for key, value in flatten(given).items():
        section, _, leaf = key.partition(".")
        stored, filled = before.get(key), resolved[section].get(leaf)
        if key not in before:  # added to the kit after the run
            stored = _default(getattr(given, section), leaf)
        if value != stored and (value is None or value != filled):
            changes[key] = value, stored if stored is not None else filled
    return changes


def _default(section: BaseModel, key: str) -> Any:
    """Return the default of a key as a JSON-able value; None if it is required or unknown."""
    fields = type(section).model_fields
    value = fields[key].get_default(call_default_factory=True) if key in fields else None
    return to_jsonable_python(None if value is PydanticUndefined else value)
