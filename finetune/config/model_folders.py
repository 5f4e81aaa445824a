"""Resolution of a folder that model.name gives to the folder of weights in it.

A finished run stands for its final/, an adapter in there for the network that it is merged in, an
old folder of sentence-transformers for the transformer in it. Folders that hold several networks
are refused with those to take.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from finetune.config.text_files import parse_json, read_text
from finetune.errors import ModelError, listed

CONFIG, ADAPTER_CONFIG, TASK = "config.json", "adapter_config.json", "task.json"
SETTINGS = (
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""Files that a network works without, but not as it was trained."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LISTED = 5


def weights_folder(path: Path) -> Path:
    """Return the folder whose weights a file or folder stands for. Raises ModelError."""
    if not path.is_dir():
        return path
    if (path / "final" / TASK).is_file():
        return path / "final"
    if (path / ADAPTER_CONFIG).is_file() and (path.parent / TASK).is_file():
        return path.parent
    if any((path / name).is_file() for name in (CONFIG, ADAPTER_CONFIG)):
        _check_settings(path)
        return path
    if nested := _nested_transformer(path):
        return nested
    _refuse(path)
    return path


def _check_settings(path: Path) -> None:
    """Raise ModelError for a damaged file of settings, which libraries ignore without a word."""
    for file in (path / name for name in SETTINGS if (path / name).is_file()):
        try:
            fault = "" if isinstance(parse_json(read_text(file)), dict) else "is not a JSON object"
        except (OSError, ValueError) as error:
            fault = f"is damaged ({error})"
        if fault:
            raise ModelError(
                f"model.name: {file} {fault}, and would be ignored; copy the model here again from "
                "an intact source"
            )


def read_model_config(path: Path | str, name: str = CONFIG) -> dict[str, Any]:
    """Read a config file of a folder; {} if there is none."""
    try:
        config = parse_json(read_text(Path(path) / name))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _nested_transformer(path: Path) -> Path | None:
    """Return the folder of the transformer in a model that sentence-transformers saved."""
    try:
        modules = parse_json(read_text(path / "modules.json"))
        first = path / str(modules[0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return first if (first / CONFIG).is_file() and path in first.parents else None


def _refuse(path: Path) -> None:
    """Raise ModelError for a folder without a network of its own, if it is known what to take."""
    if (path / "run.json").is_file():
        raise ModelError(
            f"model.name: {path} is a run that has not finished, so it has no final model; give "
            "its training command again, or take another model"
        )
    run = path.parent if path.name == "checkpoints" else path.parent.parent
    if (run / "run.json").is_file():
        raise ModelError(
            f"model.name: {path} holds only what training changed; take the finished run: {run}"
        )
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    marks = (CONFIG, ADAPTER_CONFIG, f"final/{TASK}")
    usable = [child for child in folders if any((child / name).is_file() for name in marks)]
    checkpoints = {int(m[1]): child for child in usable if (m := _CHECKPOINT.fullmatch(child.name))}
    if checkpoints:
        raise ModelError(f"model.name: {path} {_describe_checkpoints(checkpoints)}")
    if usable:
        raise ModelError(
            f"model.name: {path} is not a network, but holds folders of some; take one of them: "
            f"{listed(usable, _LISTED)}"
        )
    weights = [child.name for child in path.glob("*.safetensors")]
    if weights:
        raise ModelError(
            f"model.name: {path} has weights ({listed(sorted(weights), _LISTED)}), but no {CONFIG} "
            "beside them; save the model with its library's save_pretrained, or give the file of a "
            "timm network: model=timm/NAME model.weights=FILE"
        )


def _describe_checkpoints(checkpoints: dict[int, Path]) -> str:
    """Describe the output folder of transformers' Trainer, and what to take of it."""
    last = checkpoints[max(checkpoints)]
    best = str(read_model_config(last, "trainer_state.json").get("best_model_checkpoint") or "")
    named = next((child for child in checkpoints.values() if child.name == Path(best).name), None)
    choice = f"take the last one, {last}"
    if named is not None:
        choice = f"take the best one, {named}" + (f", or the last, {last}" if named != last else "")
    return f"is an output folder of Trainer with {len(checkpoints)} checkpoints; {choice}"
