"""The commands and their help texts: each calls one function, imported only when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from finetune.config.loading import Loaded
    from finetune.errors import FinetuneError

# Plain-text help: rendering it with rich would take three times as long as all else --help does.
app = typer.Typer(
    name="finetune",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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


@app.command(context_settings=KEYS)
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
    loaded = _load(words, fresh=fresh, extend=extend)
    with _loading_libraries():  # only now, so that config errors are reported at once
        from finetune.distributed.launch import keep_freed_memory
        from finetune.registry import make_task
        from finetune.training.run import run

        task = make_task(loaded.config.task)
    keep_freed_memory()
    run(loaded, task, fresh=fresh, extend=extend)


@app.command(context_settings=KEYS)
def search(words: ConfigWords = None) -> None:
    """Search for the best values of config keys: each trial is a run.

    A key is tried with several values if it has a list, choice(a,b), log(low,high) or
    range(low,high,step), in quotes; all others as for `train`. Trials that lag behind are stopped
    early. Repeat the same command to go on with a search.

    \b
    finetune search bbc-news validation=0.1 rank=[4,8,16] method=lora
    finetune search news.yaml 'lr=log(1e-5,1e-3)' 'method=choice(frozen,lora,full)' trials=20
    finetune search news.yaml 'lr=log(1e-5,1e-3)' time=30m search.workers=2
    """
    from finetune.cli.search_command import plan_words

    plan = plan_words(words or [])
    with _loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.registry import make_task
        from finetune.tuning.search import run_search
    keep_freed_memory()
    run_search(plan, make_task)


@app.command()
def evaluate(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A .json file for the metrics, or a folder for metrics and reports.",
        ),
    ] = None,
    batch_size: BatchSize = 32,
    trust_code: TrustCode = False,
) -> None:
    """Evaluate a fine-tuned model on labeled data.

    Without DATA, show the metrics that the run stored when it finished. With it, write the
    prediction of each row, worst mistakes first, and reports such as the confusion matrix, to
    RUN/reports/evaluate or the folder of -o. by=COLUMN splits the metrics by the values of a
    column.

    \b
    finetune evaluate runs/news-bert-base-uncased-lora
    finetune evaluate runs/news-bert-base-uncased-lora test.csv by=source -o report
    finetune evaluate runs/news-bert-base-uncased-lora test.csv delimiter=";" -o metrics.json
    """
    from finetune.cli.arguments import source_of

    source = source_of(words, takes_options=True) if words else None
    with _loading_libraries():
        from finetune.cli.evaluate_command import show_evaluation, show_run

    if source is None:
        show_run(run, output)
    else:
        show_evaluation(run, source, output, batch_size, trust_code=trust_code)


@app.command()
def calibrate(
    run: RunArgument,
    words: DataWords = None,
    batch_size: BatchSize = 32,
    trust_code: TrustCode = False,
) -> None:
    """Calibrate the probabilities of a finished model on labeled rows.

    Fits a temperature, one for each label if a row has several, and folds it into the last layer of
    RUN/final: the model's own library gives calibrated probabilities. Use rows of neither training
    nor test. Training does this on its validation split (calibrate=...).

    \b
    finetune calibrate runs/news-bert-base-uncased-lora calibration.csv
    """
    from finetune.cli.arguments import source_of
    from finetune.cli.preflight import check_model

    source = source_of(words or [])
    check_model(run, source)
    with _loading_libraries():
        from finetune.distributed.launch import keep_freed_memory, this_process
        from finetune.export.recalibrate import calibrate_model
        from finetune.reporting.console import Console

    keep_freed_memory()
    console = Console(enabled=this_process().is_main_process)
    calibrate_model(run, source, console, batch_size, trust_code=trust_code)


@app.command()
def predict(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .csv, .tsv, .jsonl, .json or .parquet file."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FOLDER", help="Draw the predictions into this folder."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="FORM", help="A form that other tools read: boxes, coco or yolo."
        ),
    ] = None,
    batch_size: BatchSize = 32,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="Precision of the computation; default: fp32, as in transformers."),
    ] = None,
    safe_csv: Annotated[
        bool,
        typer.Option(
            "--safe-csv", help="Quote cells that a spreadsheet would compute, such as =1+1."
        ),
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Predict every row of DATA, or every line of standard input.

    Writes the number of each row, its columns and its prediction, or the reason why it has none.
    Without -o, prints JSON lines to standard output, unless only --draw is given.

    \b
    finetune predict runs/news-bert-base-uncased-lora more.csv -o predictions.csv
    finetune predict runs/news-bert-base-uncased-lora old.csv delimiter=";" -o old.parquet
    finetune predict runs/scenes-tf_efficientnet_lite0-full photos/ --draw drawings/
    finetune predict runs/scenes-tf_efficientnet_lite0-full photos/ -o boxes.csv --as boxes
    echo "Shares fell again ..." | finetune predict runs/news-bert-base-uncased-lora -
    """
    from finetune.cli.arguments import source_of

    source = source_of(words or [], missing="-", takes_options=True)
    from finetune.cli.preflight import check_prediction
    from finetune.inference.prediction_outputs import Destination

    destination = Destination(output, draw, form, safe_csv)
    check_prediction(run, source, destination)
    with _loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.inference.batch_predict import predict_rows

    keep_freed_memory()
    predict_rows(run, source, destination, batch_size, precision, trust_code=trust_code)


@app.command()
def embed(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A pretrained model, or a fine-tuned RUN.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA|KEY=VALUE",
            help="A file, folder or hub dataset, and keys that say how to read it, in any order.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .parquet file.")],
    batch_size: BatchSize = 32,
    precision: Precision = None,
    trust_code: TrustCode = False,
) -> None:
    """Embed every row of DATA: write its index and its feature vector.

    The vector is what a classification head would read. An interrupted command resumes when
    repeated; under `accelerate launch` the processes share the rows. Give task=NAME if the columns
    do not determine the task.

    \b
    finetune embed sentence-transformers/all-MiniLM-L6-v2 news.csv -o features.parquet
    finetune embed timm/resnet50.a1_in1k photos/ -o features.parquet
    finetune embed runs/news-bert-base-uncased-lora news.csv task.text=body -o features.parquet
    """
    from finetune.cli.arguments import embedding_source

    source, keys = embedding_source(words)
    from finetune.cli.preflight import check_embedding

    check_embedding(model, source, output)
    with _loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.inference.embedding import embed_rows

    keep_freed_memory()
    embed_rows(model, source, keys, output, batch_size, precision, trust_code=trust_code)


@app.command()
def explore(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA|RUN|KEY=VALUE",
            help="A file, folder or hub dataset, model=MODEL, and keys that say how to read it; "
            "or a fine-tuned RUN alone, for the rows that it was trained on.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A folder; default: explore/DATA-MODEL."),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(min=2, help="Number of clusters; default: that of the best silhouette."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    trust_code: TrustCode = False,
) -> None:
    """Explore rows without labels: clusters, maps, outliers and near duplicates.

    Writes a page with a map to hover, zoom, color and search, a table with a line for each row, and
    pictures. Rows are compared by the features of a pretrained model or a fine-tuned run. Labels,
    if there are any, are only compared with the clusters.

    \b
    finetune explore news.csv model=sentence-transformers/all-MiniLM-L6-v2
    finetune explore photos/ model=timm/resnet50.a1_in1k --clusters 12 -o photos-map
    finetune explore news.csv model=runs/news-bert-base-uncased-lora label=topic
    finetune explore runs/news-bert-base-uncased-lora
    """
    from finetune.cli.explore_command import plan_exploration

    model, source, keys, folder = plan_exploration(words, output)
    with _loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.exploration.explore import explore_rows

    keep_freed_memory()
    explore_rows(
        model,
        source,
        keys,
        folder,
        clusters=clusters,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        trust_code=trust_code,
    )


@app.command(context_settings=KEYS)
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
    loaded = _load(words)
    with _loading_libraries():
        from finetune.inspection.dry_run import inspect_run
        from finetune.registry import make_task

        task = make_task(loaded.config.task)
    inspect_run(loaded, task, draw, with_defaults=with_defaults)


@app.command(name="label-issues", context_settings=KEYS)
def label_issues(
    words: ConfigWords = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The table to write; default: label_issues.csv."),
    ] = None,
) -> None:
    """Find training rows whose label is probably wrong, before or after training.

    Takes the arguments of `train`, or a run folder, whose reports then hold the table. A head is
    fitted to features of the pretrained network on four fifths of the rows, and compared with the
    labels of the others. Review the table, then train with it: data.drop=FILE leaves its rows out,
    data.relabel=FILE gives them the label in the column "suggested".

    \b
    finetune label-issues task=text-classification data=news.csv model=bert-base-uncased
    finetune label-issues runs/news-bert-base-uncased-lora
    finetune train news.yaml data.relabel=label_issues.csv
    """
    from finetune.cli.arguments import config_and_overrides
    from finetune.io.run_folder import RunFolder
    from finetune.io.table_writer import check_output

    name, overrides = config_and_overrides(words)
    path = output or Path("label_issues.csv")
    if name is not None and (run := RunFolder(Path(name))).has_config:
        name, path = str(run.path / "config.yaml"), output or run.path / "reports" / path
    check_output(path)
    loaded = _load([*([name] if name is not None else []), *overrides])
    with _loading_libraries():
        from finetune.distributed.launch import keep_freed_memory, this_process
        from finetune.inspection.label_issues import write_label_issues
        from finetune.registry import make_task
        from finetune.reporting.console import Console

        task = make_task(loaded.config.task)
    keep_freed_memory()
    write_label_issues(loaded, task, path, Console(enabled=this_process().is_main_process))


@app.command()
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
    from finetune.cli.tasks import show_keys, show_schema, show_tasks

    if schema:
        show_schema()
    elif name is None:
        show_tasks()
    else:
        show_keys(name)


@app.command()
def init(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|DATA|KEY=VALUE",
            help="The name of a shipped config, or a data file with keys of `task` and `data`.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file to write; default: NAME.yaml or DATA.yaml."),
    ] = None,
) -> None:
    """Write a starter config: copy a shipped one, or fit one to data.

    \b
    finetune init bbc-news
    finetune init news.csv -o news.yaml
    finetune init news.csv task.text=body task.label=topic
    """
    with _loading_libraries():
        from finetune.cli.init import write_starter

    write_starter(words, output)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the table to this .csv file.")
    ] = None,
) -> None:
    """Compare runs: their metrics, and the config keys that differ.

    \b
    finetune compare runs/news-bert-frozen runs/news-bert-base-uncased-lora runs/news-bert-full
    finetune compare runs/* -o runs.csv
    """
    from finetune.reporting.comparison import show_comparison

    show_comparison(runs, output)


@app.command()
def export(
    run: RunArgument,
    words: DataWords = None,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="The format to export to.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder; default: RUN/FORMAT.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Export a fine-tuned model, by default to ONNX, and compare it with PyTorch.

    The outputs are compared on rows of DATA, or else on rows of the run: its test, validation or
    training split, whichever exists first.

    \b
    finetune export runs/news-bert-base-uncased-lora --to onnx
    finetune export runs/news-bert-base-uncased-lora test.csv -o news-onnx
    """
    from finetune.cli.arguments import source_of

    source = source_of(words) if words else None
    from finetune.cli.preflight import check_model
    from finetune.export.exporters import check_format, find_exporter

    check_format(to)
    check_model(run, source)
    with _loading_libraries():
        exporter = find_exporter(to)
    exporter(run, source, output, trust_code)


@app.command()
def push(
    run: RunArgument,
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The model repository on the hub.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Create a public repository; default: private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be uploaded; upload nothing.")
    ] = False,
    what: Annotated[
        str,
        typer.Option(metavar="merged|adapter|both", help="The merged model, the adapter, or both."),
    ] = "merged",
    license: Annotated[
        str | None,
        typer.Option(help="License of the model: apache-2.0, mit, ...; default: as on its card."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Hub id of the base model, if it was loaded from a folder; default: as trained.",
        ),
    ] = None,
) -> None:
    """Upload the final model of a run to a model hub.

    Repeat the command to resume a failed upload. The hub is HF_ENDPOINT (default: huggingface.co),
    the token that of `hf auth login` or HF_TOKEN.

    \b
    finetune push runs/news-bert-base-uncased-lora me/news --dry-run
    finetune push runs/news-bert-base-uncased-lora me/news --what both --license apache-2.0
    """
    from finetune.export.hub import push as upload

    upload(
        run,
        repository,
        private=not public,
        dry_run=dry_run,
        what=what,
        license=license,
        base_model=base_model,
    )


def _load(words: list[str] | None, *, fresh: bool = False, extend: bool = False) -> Loaded:
    """Load and check the config that a command line describes."""
    from finetune.cli.arguments import config_and_overrides
    from finetune.config.loading import load_config
    from finetune.registry import INSTALLED

    config, overrides = config_and_overrides(words)
    loaded = load_config(config, overrides, INSTALLED)
    from finetune.cli.preflight import check_run  # only now: it imports what a config does not need

    check_run(loaded.config, fresh=fresh, extend=extend)
    return loaded


@contextmanager
def _loading_libraries() -> Iterator[None]:
    """Say on standard error that libraries are imported, which takes seconds, if it does."""
    if "transformers" in sys.modules:
        yield
        return
    from finetune.reporting.console import Console

    is_main = os.environ.get("RANK", "0") == "0"
    with Console(enabled=is_main, stderr=True).during("loading libraries"):
        yield


def main() -> None:
    """Run a command; print an error that has a remedy without a traceback and exit with code 2."""
    from finetune.errors import FinetuneError

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
