"""Arguments and options that several commands share, and what they do before libraries load."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from finetune.config.loading import Loaded

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run folder, its final/, or OWNER/NAME on a model hub."),
]
ConfigWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE",
        help="A YAML file or the name of a shipped config, and config keys, in any order.",
    ),
]
DataWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DATA|KEY=VALUE",
        help="A file, folder or hub dataset, and keys that say how to read it, in any order.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows per forward pass.")]

Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(help="Precision of the computation; default: chosen for the device."),
]

TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run code that the model or its run names and that you have reviewed.",
    ),
]

# Unknown options are left among the words, where the error explains how config keys are written.
KEYS = {"ignore_unknown_options": True}


def refuse_url_output(parameter: typer.CallbackParam, output: Path | None) -> Path | None:
    """Raise ConfigError for an output that is a URL; the callback of options that name one."""
    if output is not None:
        from finetune.io.references import refuse_url

        refuse_url(output, parameter.opts[0])
    return output


def output_option(help: str, metavar: str | None = None) -> Any:
    """Return the option -o of a command."""
    return typer.Option("-o", "--output", metavar=metavar, help=help, callback=refuse_url_output)


def load_words(words: Sequence[str] | None, *, fresh: bool = False, extend: bool = False) -> Loaded:
    """Load and check the config that a command line describes."""
    from finetune.commands.arguments import config_and_overrides
    from finetune.config.loading import load_config
    from finetune.registry import INSTALLED

    config, overrides = config_and_overrides(words)
    loaded = load_config(config, overrides, INSTALLED)
    # Only now: it imports what a config does not need.
    from finetune.commands.preflight import check_run

    check_run(loaded.config, fresh=fresh, extend=extend)
    return loaded


@contextmanager
def loading_libraries() -> Iterator[None]:
    """Say on standard error that libraries are imported, which takes seconds, if it does."""
    if "transformers" in sys.modules:
        yield
        return
    from finetune.distributed.collector import collector_paused
    from finetune.reporting.console import Console

    is_main = os.environ.get("RANK", "0") == "0"
    with Console(enabled=is_main, stderr=True).during("loading libraries"), collector_paused():
        yield
        gc.freeze()  # modules stay until the end: the collector leaves them alone
