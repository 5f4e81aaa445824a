"""Modules of the library `evaluate`: loading, and the arguments that each of them reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.errors import ConfigError
from tasks.metrics.judged_rows import Judged, with_defaults

SCORES = "prediction_scores"  # evaluate's name of probabilities


def find_script(name: str) -> Path | None:
    """Return the path of a local module: a script, or a folder with a script of its name."""
    path = Path(name).expanduser()
    is_module = path.is_file() or (path / f"{path.name}.py").is_file()
    return path if is_module else None


def load_module(name: str, config: str | None, trial: Judged, hint: str) -> Any:
    """Load a module in a configuration; None: the one that fits the kind of the rows.

    `hint` names metrics that need no module. Raises ConfigError.
    """
    module = _load(name, config, hint)
    if config is None and (better := _better_config(module, trial)):
        return _load(name, better, hint)
    return module


def compute_module(module: Any, settings: dict[str, Any], judged: Judged) -> Any:
    """Compute a module on rows, with the averages that its default would refuse."""
    arguments = {name: _values(name, feature, judged) for name, feature in _inputs(module).items()}
    return module.compute(**arguments, **with_defaults(module._compute, settings, judged))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without the full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def _load(name: str, config: str | None, hint: str) -> Any:
    from evaluate import config as evaluate_config
    from evaluate import loading
    from huggingface_hub.constants import HF_HUB_OFFLINE

    # evaluate would report each use of a hub module, and ignores the hub's offline switch.
    evaluate_config.HF_UPDATE_DOWNLOAD_COUNTS = False
    evaluate_config.HF_EVALUATE_OFFLINE |= HF_HUB_OFFLINE
    path = find_script(name)
    try:
        return loading.load(str(path or name), config, keep_in_memory=True)
    except Exception as error:  # third-party code may raise anything
        raise ConfigError(
            f"task.metrics: cannot load the evaluate module {name!r}: {first_line(error)}. It is "
            "neither a known metric nor the path of a local module (folder/NAME/NAME.py), and "
            f"other names are downloaded from the hub; {hint}"
            if path is None
            else f"task.metrics: cannot load the evaluate module {name!r}: {first_line(error)}"
        ) from error


def _inputs(module: Any) -> dict[str, Any]:
    """Return {name: feature} of a module's inputs, by the first of its alternatives."""
    features = module.features
    return dict(features[0] if isinstance(features, list) else features)


def _better_config(module: Any, trial: Judged) -> str | None:
    """Return the configuration for several values per row if this one reads a single value."""
    inputs = _inputs(module)
    is_single = not any(map(_is_sequence, inputs.values()))
    if trial.kind == "several" and is_single:
        return "multilabel"
    if trial.kind == "single" and not trial.is_binary and is_single and SCORES in inputs:
        return "multiclass"
    return None


def _values(name: str, feature: Any, judged: Judged) -> Any:
    """Return the true or predicted values in the type that an input has: text, index or score."""
    if name == "references":
        values: Any = judged.targets
    elif name == SCORES or (_dtype(feature).startswith("float") and judged.scores is not None):
        values = _scores(feature, judged)
    else:
        values = judged.predictions
    if _dtype(feature).startswith("int") and judged.kind == "number":
        raise ValueError("it reads class indices, and these are numbers")
    if _dtype(feature) == "string" and judged.kind == "single":
        return [judged.names[index] for index in values]
    return values


def _scores(feature: Any, judged: Judged) -> Any:
    if judged.scores is None:
        raise ValueError("it reads probabilities, which only labels have")
    if _is_sequence(feature):
        return judged.scores
    if not judged.is_binary:
        raise ValueError("it reads one probability per row, which fits two labels only")
    return judged.scores[:, 1]


def _is_sequence(feature: Any) -> bool:
    return not hasattr(feature, "dtype")


def _dtype(feature: Any) -> str:
    inner = getattr(feature, "feature", feature)
    return str(getattr(inner, "dtype", ""))
