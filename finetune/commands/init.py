"""The command `init`: write a starter config, copied from a shipped one or made for a dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from finetune.commands.arguments import data_and_overrides
from finetune.config.loading import Loaded, load_config
from finetune.config.schema import READING_KEYS
from finetune.config.shipped import find_config, shipped_configs
from finetune.config.yaml import parse_value, split_overrides
from finetune.data.source import find_data
from finetune.errors import ConfigError, raise_for_faults, shell_word
from finetune.io.references import locate
from finetune.io.table_writer import name_file_in_errors
from finetune.registry import INSTALLED, find_task_config, task_names
from finetune.reporting.console import Console

if TYPE_CHECKING:
    from finetune.commands.task_choice import TaskChoice

MODEL_HINT = "a hub id, a folder, or pkg://<package>/<path>"
SAMPLE_HINT = f"a sample that needs no hub; {MODEL_HINT}"
METHOD_HINT = "frozen: train the head only, in minutes; lora, partial, full: train more"


def write_starter(words: Sequence[str], output: Path | None) -> Path:
    """Write a config for NAME|DATA and key=value, and print the next commands.

    Raises ConfigError if the file already exists, DataError if the choice of columns is ambiguous.
    """
    name, overrides = data_and_overrides(words)
    if name is None:
        raise ConfigError(
            "init: name a shipped config or a data file, as in `finetune init bbc-news`"
        )
    shipped = _shipped(name)
    target = output or Path(f"{Path(name.rstrip('/')).stem}.yaml")
    if target.exists():
        raise ConfigError(f"{target}: already exists; remove it, or name another with -o FILE")
    if shipped is not None and overrides:
        raise ConfigError(
            f"init: {name} is copied as it is; give the keys to train instead:"
            f" finetune train {name} {' '.join(overrides)}"
        )
    if shipped is not None:
        text = shipped.read_text(encoding="utf-8")
    else:
        choice = choose_for(name, overrides)
        text = _starter_config(choice, target)
        read = "\n".join(choice.notes)
        Console().facts(
            {"task": choice.task, "data": read, "model": choice.loaded.config.model.name}
        )
    with name_file_in_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    word = shell_word(target)
    print(f"wrote {target}\n  inspect  finetune inspect {word}\n  train    finetune train {word}")
    return target


def _shipped(name: str) -> Path | None:
    """Find a shipped config unless `name` refers to data. Raises ConfigError if misspelled."""
    if Path(name).exists():
        return None
    try:
        return find_config(name)
    except ConfigError as error:
        if locate(name) is None and "did you mean" in str(error):
            raise
        return None


def _starter_config(choice: TaskChoice, target: Path) -> str:
    """Compose a config for the data: what was chosen, and the keys that were given."""
    model = choice.loaded.config.model.name
    is_sample = model == _sample_model(choice.task)["name"]
    comments = {"model": SAMPLE_HINT if is_sample else MODEL_HINT, "method": METHOD_HINT}
    given = given_sections(choice.loaded)
    leading = {name: given.pop(name) for name in ("model", "data")}
    method = given.pop("method", choice.loaded.config.method.name)
    sections = {"task": choice.keys, **leading, "method": method, **given}
    notes, word = [*choice.notes, *choice.columns], shell_word(target)
    lines = [f"# {line}" for note in notes for line in note.splitlines()]
    lines += ["#", f"# finetune inspect {word}", f"# finetune train {word} method=full"]
    lines += [f"# All keys: finetune tasks {choice.task}", ""]
    for section, value in sections.items():
        body = yaml.safe_dump({section: value}, sort_keys=False, allow_unicode=True).rstrip()
        if section in comments:
            line, *rest = body.splitlines()
            body = "\n".join([f"{line}  # {comments[section]}", *rest])
        lines.append(body)
    if not {"validation", "test"} & choice.loaded.config.data.model_fields_set:
        lines += ["# validation: 0.1, test: 0.2 hold out shares of train; default: chosen by size"]
    return "\n".join(lines) + "\n"


def given_sections(loaded: Loaded) -> dict[str, Any]:
    """Return the sections other than the task's with the keys that were given, {section: keys}.

    A section of a name alone is that name.
    """
    values = loaded.config.model_dump(mode="json")
    sections: dict[str, Any] = {}
    for key in loaded.origins:
        section, _, leaf = key.partition(".")
        if section != "task":
            sections.setdefault(section, {})[leaf] = values[section][leaf]
    names = {section: keys["name"] for section, keys in sections.items() if [*keys] == ["name"]}
    return sections | names


def choose_for(reference: str, words: Sequence[str]) -> TaskChoice:
    """Choose a task for a dataset; faults of the keys are reported before it is read."""
    chosen = split_overrides(words).get("task")
    names = [str(chosen)] if chosen is not None else suggested_tasks()
    faults = list[str]()
    configs = [loaded for name in names if (loaded := _load(name, reference, words, faults))]
    if not configs:
        _refuse_keys(faults, len(names))
    find_data(reference)  # raises if it does not exist
    from finetune.commands.task_choice import choose_task  # imports torch

    return choose_task(reference, configs, faults)


def suggested_tasks() -> list[str]:
    """Return the names of the installed tasks that data may suggest."""
    return [name for name in sorted(task_names()) if not find_task_config(name).adapts_backbone]


def _load(name: str, reference: str, words: Sequence[str], faults: list[str]) -> Loaded | None:
    """Return the config of these words for a task; append to `faults` why there is none."""
    given = [f"task={name}", f"data.source={json.dumps(reference)}"]
    if not any(word.startswith(("model=", "model.name=")) for word in words):
        given += [f"model.{key}={value}" for key, value in _sample_model(name).items()]
    # As in the other commands that read rows: delimiter is that of a table, not of labels.
    reading = [f"data.{each}" if each.partition("=")[0] in READING_KEYS else each for each in words]
    try:
        return load_config(None, [*given, *reading], INSTALLED)
    except ConfigError as error:
        # The keys of tasks that lack this one would fill the screen.
        lines = [line.strip().partition("; choose from: ")[0] for line in str(error).splitlines()]
        faults += [f"{name}: {line}" for line in lines[1:] or lines]
        return None


def _refuse_keys(faults: Sequence[str], tasks: int) -> NoReturn:
    """Raise ConfigError for keys that no task takes; what all tasks report is listed once."""
    counts = Counter(fault.partition(": ")[2] for fault in faults)
    shared = [fault for fault, count in counts.items() if count == tasks]
    raise_for_faults("the command line", shared or faults)
    raise AssertionError("a task without a config has a fault")


def _sample_model(task: str) -> dict[str, Any]:
    """Return the model of a shipped config of the same task, which comes as a Python package."""
    for key, path in shipped_configs().items():
        if key.startswith(f"{task}/"):
            model = parse_value(path.read_text(encoding="utf-8"))["model"]
            keys = model if isinstance(model, Mapping) else {"name": model}
            return {key: keys[key] for key in ("name", "weights", "match") if key in keys}
    return {"name": "NAME"}
