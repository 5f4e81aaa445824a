"""The commands of training. Each calls one function, imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import (
    KEYS,
    ConfigWords,
    load_words,
    loading_libraries,
    output_option,
)

commands = typer.Typer()


@commands.command(context_settings=KEYS)
def train(
    words: ConfigWords = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace the run that is in the run folder.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Train a finished run for more epochs or steps.")
    ] = False,
) -> None:
    """Fine-tune a model, or resume an interrupted run.

    KEY=VALUE overrides a key of CONFIG; without CONFIG, give all keys that way. Repeat the same
    command to resume. `finetune tasks NAME` lists all keys.

    \b
    finetune train bbc-news
    finetune train news.yaml method=full lr=3e-5 epochs=2
    finetune train task=text-classification data=news.csv model=bert-base-uncased method=lora
    accelerate launch -m finetune train news.yaml
    """
    loaded = load_words(words, fresh=fresh, extend=extend)
    with loading_libraries():  # only now, so that config errors are reported at once
        from finetune.distributed.launch import keep_freed_memory
        from finetune.registry import make_task
        from finetune.training.run import run

        task = make_task(loaded.config.task)
    keep_freed_memory()
    run(loaded, task, fresh=fresh, extend=extend)


@commands.command(context_settings=KEYS)
def search(words: ConfigWords = None) -> None:
    """Search for the best values of config keys: each trial is a run.

    A key is tried with several values if it has a list, choice(a,b), log(low,high) or
    range(low,high,step), in quotes; all others as for `train`. Trials that lag behind are stopped
    early. Repeat the same command to go on with a search. Without values to try, it says which
    method is worth its time.

    \b
    finetune search bbc-news validation=0.1 rank=[4,8,16] method=lora
    finetune search news.yaml 'lr=log(1e-5,1e-3)' 'method=choice(frozen,lora,full)' trials=20
    finetune search news.csv model=bert-base-uncased time=10m
    finetune search news.yaml 'lr=log(1e-5,1e-3)' time=30m search.workers=2
    finetune search news.yaml 'lr=log(1e-5,1e-3)' trials=64 search.on=ray search.cpus=4
    """
    from finetune.commands.search_command import plan_words

    plan = plan_words(words or [])
    with loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.registry import make_task
        from finetune.searches.search import run_search
    keep_freed_memory()
    run_search(plan, make_task)


@commands.command(context_settings=KEYS)
def inspect(
    words: ConfigWords = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FILE", help="Draw augmented rows and a batch to an image."),
    ] = None,
    with_defaults: Annotated[
        bool, typer.Option("--all", help="Also list the keys at their default.")
    ] = False,
) -> None:
    """Show what `train` would do with the same arguments (dry run).

    Prints how the data were read, one row from input to prediction, the keys that were set or
    chosen with their origin, and the steps, memory and time that the run would take. Nothing is
    trained, and nothing is written except by --draw.

    \b
    finetune inspect news.yaml method=full
    finetune inspect flowers.yaml --draw sheet.png
    """
    loaded = load_words(words)
    with loading_libraries():
        from finetune.inspection.dry_run import inspect_run
        from finetune.registry import make_task

        task = make_task(loaded.config.task)
    inspect_run(loaded, task, draw, with_defaults=with_defaults)


@commands.command()
def init(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|DATA|KEY=VALUE",
            help="The name of a shipped config, or a data file with keys of `task` and `data`.",
        ),
    ],
    output: Annotated[
        Path | None, output_option(help="The file to write; default: NAME.yaml or DATA.yaml.")
    ] = None,
) -> None:
    """Write a starter config: copy a shipped one, or fit one to data.

    \b
    finetune init bbc-news
    finetune init news.csv -o news.yaml
    finetune init news.csv task.text=body task.label=topic
    """
    with loading_libraries():
        from finetune.commands.init import write_starter

    write_starter(words, output)


@commands.command()
def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A task, to list its config keys.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of config files, for editors.")
    ] = False,
) -> None:
    """List the tasks, or all config keys of one task.

    \b
    finetune tasks
    finetune tasks text-classification
    finetune tasks --schema > config.schema.json
    """
    from finetune.commands.tasks import show_keys, show_schema, show_tasks

    if schema:
        show_schema()
    elif name is None:
        show_tasks()
    else:
        show_keys(name)
