"""The command line: its groups of commands, and how an error ends it."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from finetune.cli import data_commands, model_commands, training_commands

if TYPE_CHECKING:
    from finetune.errors import FinetuneError

# Plain-text help: rendering it with rich would take three times as long as all else --help does.
app = typer.Typer(
    name="finetune",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (training_commands, model_commands, data_commands):
    app.add_typer(group.commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        from finetune import __version__

        print(f"finetune-kit {__version__}")
        raise typer.Exit


@app.callback()
def finetune(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Fine-tune pretrained models for text and images on your own data.

    \b
    finetune train task=text-classification data=news.csv model=bert-base-uncased method=lora
    finetune predict runs/news-bert-base-uncased-lora more.csv -o predictions.csv
    """


def main() -> None:
    """Run a command; print an error that has a remedy without a traceback and exit with code 2."""
    from finetune.errors import FinetuneError

    # Registered first, it runs last: an interrupt could only change the exit code of a command that
    # has ended.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    # The interpreter's last collection walks over all that the libraries hold, for a second.
    atexit.register(gc.freeze)
    try:
        app()
    except FinetuneError as error:
        _fail(error)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # libraries written in Rust panic with a BaseException
        from finetune.distributed.lost_peers import peer_loss
        from finetune.io.system_errors import as_system_error

        fault = as_system_error(error)
        if fault is None and isinstance(error, RuntimeError):
            fault = peer_loss(error)
        if fault is None:
            raise
        _fail(fault)


def _fail(error: FinetuneError) -> NoReturn:
    from finetune.distributed.lost_peers import report

    report(error)
    sys.exit(getattr(error, "exit_code", 2))
