"""The folder of a run: where each file lies, and whether the run in it may go on.

config.yaml     the config with every default filled in
run.json        the config as given, the digests of the data, the environment
metrics.jsonl   a line for each log and each evaluation
checkpoints/    step-000400/ ...
contrastive/    step-000050/: the backbone, where it was tuned by contrast before the first step
last.json       best.json
reports/        <split>/: what the task draws of its result; what was said before training
trackers/       what trackers write into files
results.json    written last: a run that has it is finished
final/          the fine-tuned model
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from finetune.config.retired import stored_section
from finetune.config.schema import RunConfig
from finetune.config.yaml import flatten, parse_value, to_yaml
from finetune.errors import CheckpointError, ConfigError, DataError
from finetune.io.checkpoint import step_name
from finetune.io.files import write_json, write_text

OTHER_FILES = ("metrics.jsonl", "best.json", "last.json")


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and the little that is read and written as a whole."""

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
        """One of the JSON files. Raises CheckpointError if it is not there or not JSON."""
        path = self.path / name
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return value
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: there is no such file; {self._advice()}") from error
        except ValueError as error:
            raise CheckpointError(
                f"{path}: is not valid JSON ({error}); use --fresh to start over"
            ) from error

    def write(self, name: str, value: Any) -> None:
        with self._writing(name):
            write_json(self.path / name, value)

    def point(self, last: int, best: int | None, value: float | None) -> None:
        """Write last.json and best.json, which name the checkpoints that a person looks for."""
        self.write("last.json", {"checkpoint": step_name(last), "step": last})
        if best is not None:
            found = {"checkpoint": step_name(best), "step": best, "value": value}
            self.write("best.json", found)

    def begin(
        self, given: RunConfig, digests: Mapping[str, str], environment: Mapping[str, Any]
    ) -> None:
        """Make the folder, and note what makes a later command the same run."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            facts = {"given": flatten(given), "data": {**digests}, "environment": {**environment}}
            # First of all, for it is what tells a run's folder from another.
            write_json(self.path / "run.json", facts)
            self.checkpoints.mkdir(exist_ok=True)
            (self.path / "results.json").unlink(missing_ok=True)  # of a run that is now extended
        except OSError as error:
            raise ConfigError(
                f"output.dir: {self.path} cannot be written ({error}); name another folder"
            ) from error

    def read_config(self) -> dict[str, dict[str, Any]]:
        """The sections of config.yaml. Raises CheckpointError if the run has not come so far."""
        path = self.path / "config.yaml"
        try:
            sections: dict[str, dict[str, Any]] = parse_value(path.read_text(encoding="utf-8"))
            return sections
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); {self._advice()}") from error

    def write_config(self, config: RunConfig) -> None:
        write_text(self.path / "config.yaml", to_yaml(config))

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        if not self.exists:
            return
        for name in ("checkpoints", "contrastive", "final", "reports", "trackers"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        # run.json last: a folder without it is taken for somebody else's.
        for name in ("results.json", "config.yaml", *OTHER_FILES, "run.json"):
            (self.path / name).unlink(missing_ok=True)

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. A last one without its end was cut off when the run was."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_history(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
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
                f"{self.path / name}: cannot be written ({error}); the checkpoints are unharmed. "
                "Free some space, and run the same command again"
            ) from error

    def _advice(self) -> str:
        if not self.path.is_dir():
            return "give the folder of a run, such as runs/<name>"
        return "this folder is no run, or the run has not come this far"


def check_free(folder: RunFolder) -> None:
    """Refuse a folder that holds something else than a run."""
    if folder.path.is_file():
        raise ConfigError(f"output.dir: {folder.path} is a file; name a folder")
    held = {path.name for path in folder.path.iterdir()} if folder.path.is_dir() else set()
    if not folder.exists and held - {".run.json.partial"}:
        raise ConfigError(
            f"output.dir: {folder.path} is not empty and holds no run; name another folder"
        )


def check_same_run(
    folder: RunFolder, given: RunConfig, digests: Mapping[str, str], *, extend: bool
) -> RunConfig | None:
    """The config to go on with, if `given` is the run that the folder holds.

    None if that run never got to a config. Raises CheckpointError or DataError with the differences
    and the ways out.
    """
    if not folder.has_config:
        return None
    held, resolved = folder.read("run.json"), folder.read_config()
    lengths = given.keys_of("length_keys")
    free = given.keys_of("free_keys") | (lengths if extend else set())
    changed, differences = dict[str, Any](), dict[str, str]()
    for key, (value, before) in _changes(given, held["given"], resolved).items():
        if key in free:
            changed[key] = value
        else:
            differences[key] = f"  {key}: {before} in the run, {value} now"
    hint = "use --extend to train longer, or " if lengths & differences.keys() else ""
    replacing = "--fresh (in Python fresh=True) to replace this one"
    ways = f"{hint}output.dir=... for a second run, or {replacing}"
    if differences:
        raise CheckpointError(
            "\n".join([f"{folder.path}: holds another run:", *differences.values(), f"  {ways}"])
        )
    if dict(digests) != held["data"]:
        names = sorted({name for name, _ in digests.items() ^ held["data"].items()})
        raise DataError(
            f"{folder.path}: the rows of {', '.join(names)} are not those that the run "
            f"began with; {ways}"
        )
    for key, value in changed.items():
        section, _, leaf = key.partition(".")
        resolved[section][leaf] = value
    own = {
        name: stored_section(type(getattr(given, name)), resolved[name])
        for name in ("task", "method")
    }
    return RunConfig(**(resolved | own))


def _changes(
    given: RunConfig, before: Mapping[str, Any], resolved: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Any, Any]]:
    """{key: (its value now, what it was)} of the keys that are other than those the run was given,
    and than what was filled in for them.
    """
    found = {}
    for key, value in flatten(given).items():
        section, _, leaf = key.partition(".")
        stored, filled = before.get(key), resolved[section].get(leaf)
        if key not in before:  # it is younger than the run
            stored = _default(getattr(given, section), leaf)
        if value != stored and (value is None or value != filled):
            found[key] = value, stored if stored is not None else filled
    return found


def _default(section: BaseModel, key: str) -> Any:
    """What a key of a section is when nothing is said, JSON-able; None where it must be said."""
    fields = type(section).model_fields
    found = fields[key].get_default(call_default_factory=True) if key in fields else None
    return to_jsonable_python(None if found is PydanticUndefined else found)
