"""Layout of the folder of a search, and the identity by which a command finds its search again.

search.json     what is fixed, what is tried, how
journal.jsonl   the trials, written by Optuna
trial-000/ ...  a run folder each; trial-000-seed-1/ ... of further seeds
logs/           what each trial printed
measured/       statistics of each validation row by each trial's final model
best.yaml       the config of the best trial
trials.parquet  one row per trial
history.png     importances.png  keys.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from finetune.config.text_files import read_json_as
from finetune.errors import CheckpointError, listed
from finetune.io.files import write_json
from finetune.io.run_folder import RunFolder
from finetune.io.run_identity import short_name
from finetune.io.run_lock import RunLock
from finetune.search_space.search_plan import SearchPlan
from finetune.search_space.space import format_item

RECORD = "search.json"


@dataclass(frozen=True)
class SearchFolder:
    """Paths of a search."""

    path: Path

    def trial(self, number: int, seed: int = 0) -> Path:
        """Return the run folder of a trial; `seed` counts its runs."""
        return self.path / (f"trial-{number:03d}" + (f"-seed-{seed}" if seed else ""))

    def log(self, number: int) -> Path:
        return self.path / "logs" / f"trial-{number:03d}.txt"

    def measured(self, number: int, seed: int = 0) -> Path:
        return self.path / "measured" / f"{self.trial(number, seed).name}.safetensors"

    def claim(self, number: int) -> RunLock:
        """Return the lock of the process that runs a trial."""
        return RunLock(self.path / ".claims" / self.trial(number).name)

    def begin(self, plan: SearchPlan) -> None:
        """Create the folder for a search, unless it has one. Raises CheckpointError."""
        if RunFolder(self.path).exists:
            raise CheckpointError(
                f"search.dir: {self.path} contains a run; name another folder, since each trial of "
                "a search is a run in a folder of its own"
            )
        try:
            for name in ("logs", "measured"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            if not (self.path / RECORD).is_file():
                write_json(self.path / RECORD, _identity(plan))
        except OSError as error:
            raise CheckpointError(
                f"search.dir: cannot write to {self.path} ({error}); name another folder"
            ) from error

    def check_same(self, plan: SearchPlan) -> None:
        """Raise CheckpointError if the folder holds another search."""
        record = self.path / RECORD
        try:
            before = read_json_as(dict[str, Any], record)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{record}: cannot be read ({error}); name another folder with search.dir=FOLDER"
            ) from error
        now = _identity(plan)
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            words = (f"{key}: {before.get(key)} there, {now.get(key)} now" for key in changed)
            raise CheckpointError(
                f"{self.path}: contains another search ({listed(words, 3)}); repeat the same "
                "command to go on with it, or name another folder with search.dir=FOLDER"
            )


def default_search_folder(plan: SearchPlan, data: Any = None) -> Path:
    """Return search/<data>-<model>, from the last distinctive part of each name."""
    config = plan.load(next(plan.probes())).config
    source = config.data.source or config.data.train or "data"
    several = any(name == "model.name" for key, name in plan.names.items() if key in plan.space)
    model = "models" if several else short_name(config.model.name)
    return Path("search") / f"{short_name(source)}-{model}"


def _identity(plan: SearchPlan) -> dict[str, Any]:
    """Return what makes this the same search: its fixed keys, its space and its sampler."""
    fixed = {plan.names[key]: value for layer in plan.fixed for key, value in layer.entries}
    identity = {key: to_jsonable_python(value) for key, value in fixed.items()}
    identity |= {plan.names[key]: str(values) for key, values in plan.space.items()}
    settings = plan.settings
    chosen = {"sampler": plan.sampler, "pruner": settings.pruner, "grace": settings.grace}
    chosen["seed"] = settings.seed
    return identity | {f"search.{key}": value for key, value in chosen.items()}


def format_values(values: dict[str, Any]) -> str:
    """Format the values of a trial as the words of a command line."""
    return " ".join(f"{key}={format_item(value)}" for key, value in values.items())
