"""From the words of the command `check` to a config: of a run, of a file, or made for the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.commands.arguments import data_and_overrides
from finetune.commands.init import choose_for
from finetune.config.loading import Loaded, load_config
from finetune.config.shipped import shipped_configs
from finetune.config.yaml import read_yaml, split_overrides
from finetune.errors import ConfigError
from finetune.inference.stored_code import check_stored_config
from finetune.io.run_folder import RunFolder
from finetune.registry import INSTALLED


def load_for_check(words: Sequence[str], *, trust_code: bool = False) -> Loaded:
    """Return the config that DATA, CONFIG or RUN and key=value describe.

    For DATA, the task is chosen as by `init`. Code that a RUN names runs only with `trust_code`.
    Raises FinetuneError.
    """
    name, overrides = data_and_overrides(words)
    if name is None:
        raise ConfigError("check: name the data, as in `finetune check news.csv`")
    config = _find_config(name)
    if config is not None and config != name:
        file = Path(config)
        given = split_overrides(overrides)
        check_stored_config(read_yaml(file), file, trust_code=trust_code, given=given)
    if config is not None:
        return load_config(config, overrides, INSTALLED)
    return choose_for(name, overrides).loaded


def _find_config(name: str) -> str | None:
    """Return the config file that a name stands for; None if it names data."""
    if (run := RunFolder(Path(name))).has_config:
        return str(run.path / "config.yaml")
    if not Path(name).exists():
        names = {name for key in shipped_configs() for name in (key, key.rpartition("/")[2])}
        return name if name in names else None
    is_yaml = Path(name).is_file() and Path(name).suffix in (".yaml", ".yml")
    return name if is_yaml and "task" in read_yaml(Path(name)) else None
