"""The command line: each command calls one function. Without one, no torch is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from finetune.config.loading import Loaded
    from finetune.task import Task

# Plain help: drawing it with rich takes three times as long as everything else that --help does.
app = typer.Typer(
    name="finetune",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, its final/, or OWNER/NAME.")
]
ConfigWords = Annotated[list[str] | None, typer.Argument(metavar="[CONFIG] [KEY=VALUE ...]")]
DataWords = Annotated[list[str] | None, typer.Argument(metavar="[DATA] [KEY=VALUE ...]")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows that the network computes at once.")]

Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(help="Of the computation; left out, the device chooses."),
]

# What looks like an option is left to the words, which know how keys are written.
KEYS = {"ignore_unknown_options": True}


@app.callback()
def finetune() -> None:
    """Fine-tune pretrained models on your own data: one config, one command, a model you can trust.

    \b
    finetune train task=text-classification data=news.csv model=bert-base-uncased method=lora
    finetune predict runs/news-bert-base-uncased-lora more.csv -o predictions.csv
    """


@app.command(context_settings=KEYS)
def train(
    words: ConfigWords = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace the run that the folder holds.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Train a finished run for more epochs or steps.")
    ] = False,
) -> None:
    """Fine-tune a model, or go on where the same command stopped before.

    CONFIG is a YAML file or the name of a shipped one; KEY=VALUE sets a key of it. Without CONFIG,
    KEY=VALUE says it all.

    \b
    finetune train bbc-news
    finetune train news.yaml method=full lr=3e-5 epochs=2
    finetune train task=text-classification data=news.csv model=bert-base-uncased method=lora
    accelerate launch -m finetune train news.yaml
    """
    loaded, task = _load(words)
    from finetune.distributed.launch import keep_freed_memory
    from finetune.training.run import run  # after the config: its faults are answered sooner

    keep_freed_memory()
    run(loaded, task, fresh=fresh, extend=extend)


@app.command()
def evaluate(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the metrics to this .json file.")
    ] = None,
    batch_size: BatchSize = 32,
) -> None:
    """Measure a fine-tuned model on labelled DATA; without DATA, show what its run measured.

    \b
    finetune evaluate runs/news-bert-lora
    finetune evaluate runs/news-bert-lora test.csv delimiter=";" -o metrics.json
    """
    from finetune.cli.arguments import source_of

    source = source_of(words, takes_options=True) if words else None
    from finetune.cli.evaluate_command import measure, show_run
    from finetune.distributed.launch import keep_freed_memory

    keep_freed_memory()

    if source is None:
        show_run(run, output)
    else:
        measure(run, source, output, batch_size)


@app.command()
def predict(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .csv, .tsv, .jsonl, .json or .parquet file."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Write pictures of the predictions here.")
    ] = None,
    batch_size: BatchSize = 32,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="Of the computation; left out, fp32, as the libraries compute."),
    ] = None,
) -> None:
    """Predict every row of DATA, or every line of the standard input, and keep its columns.

    Without -o the predictions are JSON lines on the standard output, but for --draw alone.

    \b
    finetune predict runs/news-bert-lora more.csv -o predictions.csv
    finetune predict runs/news-bert-lora old.csv delimiter=";" encoding=cp1252 -o old.parquet
    finetune predict runs/scenes-lite0-full photos/ --draw drawings/
    echo "Shares fell again ..." | finetune predict runs/news-bert-lora -
    """
    from finetune.cli.arguments import source_of

    source = source_of(words or [], missing="-", takes_options=True)
    from finetune.distributed.launch import keep_freed_memory
    from finetune.inference.batch_predict import predict_rows

    keep_freed_memory()
    predict_rows(run, source, output, batch_size, draw, precision)


@app.command()
def embed(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A pretrained network, or a fine-tuned RUN.")
    ],
    words: Annotated[list[str], typer.Argument(metavar="DATA [KEY=VALUE ...]")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .parquet file.")],
    batch_size: BatchSize = 32,
    precision: Precision = None,
) -> None:
    """Write a vector of every row of DATA: its number from 0, and what a head would read.

    Stopped and started again, it goes on; under `accelerate launch` processes share the rows.
    task=NAME says what a row is, where its columns leave that open.

    \b
    finetune embed sentence-transformers/all-MiniLM-L6-v2 news.csv -o features.parquet
    finetune embed timm/resnet50.a1_in1k photos/ -o features.parquet
    finetune embed runs/news-bert-lora news.csv task.text=body -o features.parquet
    """
    from finetune.cli.arguments import embedding_source

    source, keys = embedding_source(words)
    from finetune.distributed.launch import keep_freed_memory
    from finetune.inference.embedding import embed_rows

    keep_freed_memory()
    embed_rows(model, source, keys, output, batch_size, precision)


@app.command(context_settings=KEYS)
def inspect(
    words: ConfigWords = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FILE", help="Draw what the network will see here."),
    ] = None,
) -> None:
    """Show what `train` would do with the same words: nothing is trained and nothing is written.

    The config with where each value comes from, one row on its way to a prediction, and the steps,
    memory and time that the run would take.

    \b
    finetune inspect news.yaml method=full
    finetune inspect flowers.yaml --draw sheet.png
    """
    loaded, task = _load(words)
    from finetune.cli.inspect import inspect_run

    inspect_run(loaded, task, draw)


@app.command()
def tasks(
    name: Annotated[
        str | None, typer.Argument(help="A task, to show all keys of a config.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a config, for editors.")
    ] = False,
) -> None:
    """List the tasks; with NAME, every key that its config may hold.

    \b
    finetune tasks text-classification
    finetune tasks --schema > config.schema.json
    """
    from finetune.cli.tasks import show_keys, show_schema, show_tasks

    if schema:
        show_schema()
    elif name is None:
        show_tasks()
    else:
        show_keys(name)


@app.command()
def init(
    words: Annotated[list[str], typer.Argument(metavar="NAME|DATA [KEY=VALUE ...]")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; else by the name.")
    ] = None,
) -> None:
    """Write a config to start from: a copy of a shipped one, or one that fits a data file.

    \b
    finetune init bbc-news
    finetune init news.csv -o news.yaml
    finetune init news.csv task.text=body task.label=topic
    """
    from finetune.cli.init import write_starter

    write_starter(words, output)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the table to this .csv file.")
    ] = None,
) -> None:
    """Show runs side by side: what differs in their configs, and their metrics.

    \b
    finetune compare runs/news-bert-frozen runs/news-bert-lora runs/news-bert-full
    finetune compare runs/* -o runs.csv
    """
    from finetune.reporting.comparison import show_comparison

    show_comparison(runs, output)


@app.command()
def export(
    run: RunArgument,
    words: DataWords = None,
    to: Annotated[str, typer.Option(metavar="onnx", help="The format.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder; else RUN/onnx.")
    ] = None,
) -> None:
    """Write a fine-tuned network as ONNX, run it on rows, and compare with PyTorch.

    The rows are those of DATA, else held-out ones of the run.

    \b
    finetune export runs/news-bert-lora --to onnx
    finetune export runs/news-bert-lora test.csv -o news-onnx
    """
    from finetune.cli.arguments import source_of

    source = source_of(words) if words else None
    from finetune.export.exporters import find_exporter

    find_exporter(to)(run, source, output)


@app.command()
def push(
    run: RunArgument,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model on the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a repository that everyone can see.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be uploaded, and upload nothing.")
    ] = False,
    what: Annotated[
        str,
        typer.Option(metavar="merged|adapter|both", help="The network, its adapter, or both."),
    ] = "merged",
    license: Annotated[
        str | None, typer.Option(help="Of the model: apache-2.0, mit ...; else as its card has it.")
    ] = None,
) -> None:
    """Upload the final model of a run to a model hub, private; again, to go on after a fault.

    The hub is that of HF_ENDPOINT, the token that of `hf auth login` or HF_TOKEN.

    \b
    finetune push runs/news-bert-lora me/news --dry-run
    finetune push runs/news-bert-lora me/news --what both --license apache-2.0
    """
    from finetune.export.hub import push as upload

    upload(run, repository, private=not public, dry_run=dry_run, what=what, license=license)


def _load(words: list[str] | None) -> tuple[Loaded, Task]:
    """The config that the words of a command line mean, and its task."""
    from finetune.cli.arguments import config_and_overrides
    from finetune.config.loading import load_config
    from finetune.registry import INSTALLED, find_task

    config, overrides = config_and_overrides(words)
    loaded = load_config(config, overrides, INSTALLED)
    return loaded, find_task(loaded.config.task.name)(loaded.config.task)


def main() -> None:
    """Run a command. A fault that the user can mend is a message and exit code 2, no traceback."""
    from finetune.errors import FinetuneError

    try:
        app()
    except FinetuneError as error:
        if int(os.environ.get("RANK", "0")) == 0:  # the others of a distributed run say the same
            print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
