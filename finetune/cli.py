"""The command line: each command calls one function."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def train(
    arguments: Annotated[list[str] | None, typer.Argument()] = None,
    fresh: bool = False,
    extend: bool = False,
) -> None:
    """Fine-tune a model."""
    from finetune.overrides import load_config
    from finetune.registry import find_task
    from finetune.run import run

    arguments = arguments or []
    config = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    loaded = load_config(config, arguments, lambda name: find_task(name).Config)
    run(loaded, find_task(loaded.config.task.name)(loaded.config.task), fresh=fresh, extend=extend)


@app.command()
def predict(run: str) -> None:
    """Predict."""


def main() -> None:
    """Run."""
    from finetune.errors import FinetuneError

    try:
        app(standalone_mode=True)
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
