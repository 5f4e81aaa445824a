"""Damaged files of runs: every command works or ends with one message, in time, without traceback.

The matrix is every file of a finished and of a stopped run, each kind of damage, each command: an
hour with FINETUNE_FAULTS=all. The slow tests try each damage under two commands in turn, and the
default run a sample of these.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.io.files import file_facts
from tests.faults.conftest import Runs
from tests.support.damage import BYTES, JSON
from tests.support.limited import Outcome, call_limited, run_limited

TEXTS = (".json", ".jsonl", ".yaml")
OF_FINISHED = (
    "metrics.jsonl",
    "config.yaml",
    "run.json",
    "results.json",
    "best.json",
    "last.json",
    ".lock",
    "final/task.json",
    "final/manifest.json",
    "final/config.json",
    "final/tokenizer.json",
    "final/tokenizer_config.json",
    "final/model.safetensors",
)
OF_STOPPED = (
    "metrics.jsonl",
    "config.yaml",
    "run.json",
    "last.json",
    ".lock",
    *(
        f"checkpoints/step-000003/{name}"
        for name in ("manifest.json", "state.json", "model.safetensors", "optimizer.safetensors")
    ),
)
COMMANDS = ("evaluate", "compare", "python", "predict", "measure", "resume", "extend")
RARE_COMMANDS = ("export", "push", "embed", "inspect")
SAMPLE = [
    ("metrics.jsonl", "nuls at the end", "evaluate"),
    ("metrics.jsonl", "torn", "python"),
    ("metrics.jsonl", "list", "evaluate"),
    ("metrics.jsonl", "binary", "compare"),
    ("metrics.jsonl", "nested", "python"),
    ("metrics.jsonl", "long number", "evaluate"),
    ("results.json", "values are text", "evaluate"),
    ("results.json", "a pipe", "compare"),
    ("results.json", "list", "python"),
    ("config.yaml", "values are lists", "compare"),
    ("config.yaml", "leaves are objects", "measure"),
    ("config.yaml", "a device", "compare"),
    ("run.json", "foreign", "compare"),
    ("run.json", "nested objects", "resume"),
    ("final/task.json", "leaves are null", "predict"),
    ("final/task.json", "string", "predict"),
    ("final/config.json", "leaves are infinite", "predict"),
    ("final/tokenizer.json", "values are NaN", "predict"),
    ("final/model.safetensors", "a pipe", "predict"),
    ("final/model.safetensors", "truncated", "push"),
]


def words_of(command: str, runs: Runs, folder: Path) -> list[str]:
    """Return the words of a command on a damaged copy of a run."""
    longer = [word.replace("epochs=1", "epochs=1.5") for word in runs.words]
    output = folder.parent
    return {
        "evaluate": ["evaluate", f"{folder}"],
        "measure": ["evaluate", f"{folder}", f"{runs.data}", "-o", f"{output / 'metrics.json'}"],
        "compare": ["compare", f"{folder}", f"{runs.finished}"],
        "predict": ["predict", f"{folder}", f"{runs.data}", "-o", f"{output / 'rows.csv'}"],
        "embed": ["embed", f"{folder}", f"{runs.data}", "-o", f"{output / 'rows.parquet'}"],
        "export": ["export", f"{folder}", f"{runs.data}", "-o", f"{output / 'onnx'}"],
        "push": ["push", f"{folder}", "me/news", "--dry-run"],
        "resume": [*runs.words, f"output={folder}"],
        "extend": [*longer, "--extend", f"output={folder}"],
        "inspect": ["inspect", *runs.words[1:], f"output={folder}"],
    }[command]


def use_in_python(folder: Path) -> None:
    """Use a run as a notebook does. Exits as the command line does after an error."""
    import finetune
    from finetune.errors import FinetuneError

    try:
        run = finetune.Run(folder)
        run.history()
        run.plot()
        run._repr_html_()
        run.predict(["shares fell"])
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def outcome(runs: Runs, original: Path, name: str, damage: str, command: str, tmp: Path) -> Outcome:
    """Damage a file in a copy of a run, and run a command on the copy."""
    folder = tmp / "run"
    shutil.rmtree(tmp, ignore_errors=True)
    shutil.copytree(original, folder)
    (BYTES | JSON)[damage](folder / name)
    if command == "python":
        return call_limited(lambda: use_in_python(folder))
    return run_limited(words_of(command, runs, folder))


def damages_of(name: str) -> Iterator[str]:
    yield from BYTES
    if name.endswith(TEXTS):
        yield from JSON


def cases_of(name: str, commands: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the damages of a file with the commands to try, two of them in turn or all."""
    count = len(commands) if os.environ.get("FINETUNE_FAULTS") == "all" else 2
    for place, damage in enumerate(damages_of(name)):
        for step in range(count):
            yield damage, commands[(2 * place + step) % len(commands)]


@pytest.mark.parametrize(("name", "damage", "command"), SAMPLE)
def test_damaged_file_of_a_finished_run_ends_in_one_message(
    name: str, damage: str, command: str, runs: Runs, tmp_path: Path
) -> None:
    ended = outcome(runs, runs.finished, name, damage, command, tmp_path / "work")
    assert not ended.fault, f"{ended.fault}: {ended.errors}"


@pytest.mark.parametrize("damage", ["nuls at the end", "leaves are text", "missing", "a pipe"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/step-000003/state.json"])
def test_damaged_file_of_a_stopped_run_ends_in_one_message(
    name: str, damage: str, runs: Runs, tmp_path: Path
) -> None:
    ended = outcome(runs, runs.stopped, name, damage, "resume", tmp_path / "work")
    assert not ended.fault, f"{ended.fault}: {ended.errors}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_FINISHED)
def test_all_damages_of_a_finished_run(name: str, runs: Runs, tmp_path: Path) -> None:
    faults = {
        (damage, command): ended.fault
        for damage, command in cases_of(name, (*COMMANDS, *RARE_COMMANDS))
        if (ended := outcome(runs, runs.finished, name, damage, command, tmp_path / "work")).fault
    }
    assert not faults


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_STOPPED)
def test_all_damages_of_a_stopped_run(name: str, runs: Runs, tmp_path: Path) -> None:
    faults = {
        (damage, command): ended.fault
        for damage, command in cases_of(name, ("resume", "evaluate", "compare"))
        if (ended := outcome(runs, runs.stopped, name, damage, command, tmp_path / "work")).fault
    }
    assert not faults


def test_model_whose_labels_repeat_is_refused(runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs.finished, tmp_path / "run"))
    path = folder / "final" / "task.json"
    saved = json.loads(path.read_text())
    saved["state"]["targets"]["names"][1] = saved["state"]["targets"]["names"][0]
    path.write_text(json.dumps(saved))
    ended = run_limited(words_of("predict", runs, folder))
    assert (ended.code, ended.fault) == (2, ""), ended.errors
    assert "a label occurs twice" in ended.errors


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state of a checkpoint, with a manifest that fits it."""
    state = json.loads((folder / "state.json").read_text())
    change(state)
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = file_facts(folder / "state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("progress", [{}, {"step": -1}, {"step": 2}])
def test_checkpoint_of_another_step_than_its_state_is_refused(
    progress: dict[str, int], runs: Runs, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    rewrite(folder / "checkpoints" / "step-000003", lambda state: state.update(progress=progress))
    ended = run_limited(words_of("resume", runs, folder))
    assert (ended.code, ended.fault) == (2, ""), ended.errors
    assert "state.json: cannot be used (step: " in ended.errors
