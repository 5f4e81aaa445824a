"""From the words of the command `explore` to rows, a network and a folder, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.commands.arguments import data_and_overrides
from finetune.config.schema import READING_KEYS, DataConfig
from finetune.config.yaml import split_overrides
from finetune.data.source import Source, find_data, make_embedding_source
from finetune.errors import ConfigError
from finetune.exploration.result_folder import check_folder
from finetune.inference.stored_code import check_stored_config
from finetune.io.references import check_run_exists
from finetune.io.run_folder import RunFolder

_MODEL = ("model", "model.name")


def plan_exploration(
    words: Sequence[str], output: Path | None, *, trust_code: bool = False
) -> tuple[str, Source, Path]:
    """Return the network, the rows and the folder to write to.

    The function that the config of a run applies to its rows runs only with `trust_code`.
    """
    data, overrides = data_and_overrides(words)
    keys = split_overrides(overrides)
    models = [keys.pop(name) for name in _MODEL if name in keys]
    if len({*map(str, models)}) > 1:
        raise ConfigError(f"explore: model={models[0]} and model.name={models[1]}; remove one")
    if not models and data is not None and RunFolder(Path(data)).has_config:
        models, run = [data], RunFolder(Path(data))
        data, own = _trained_rows(run)
        file = run.path / "config.yaml"
        check_stored_config(own, file, trust_code=trust_code, given=keys)
        keys = own | keys
    source = make_embedding_source(data, keys, "command line", known=_MODEL)
    if not models:
        raise ConfigError(
            "explore: model=NAME is missing; give a pretrained model or a fine-tuned run, such as "
            "model=sentence-transformers/all-MiniLM-L6-v2"
        )
    model = str(models[0])
    check_run_exists(model)
    find_data(source.reference)
    folder = output or default_explore_folder(source, model)
    check_folder(folder)
    return model, source, folder


def default_explore_folder(source: Source, model: str) -> Path:
    """Return explore/<data>-<model>, from the last distinctive part of each name."""
    from finetune.io.run_identity import short_name  # imports torch

    return Path("explore") / f"{short_name(source.name)}-{short_name(model)}"


def _trained_rows(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """Return the data of a run, and the keys that control how it is read."""
    config = run.read_section("data", DataConfig)
    values = {key: getattr(config, key) for key in READING_KEYS}
    keys = {key: value for key, value in values.items() if value != getattr(DataConfig(), key)}
    reference = config.source or config.train
    if reference is None:
        raise ConfigError(
            f"{run.path}: was trained on rows made in Python; name rows: finetune explore DATA "
            f"model={run.path}"
        )
    if config.source is not None and config.train is not None:
        keys["split"] = config.train
    return reference, keys
