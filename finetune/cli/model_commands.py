"""The commands that take a fine-tuned model. Each calls one function, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from finetune.cli.options import (
    BatchSize,
    DataWords,
    RunArgument,
    TrustCode,
    loading_libraries,
    output_option,
    refuse_url_output,
)

commands = typer.Typer()


@commands.command()
def evaluate(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None,
        output_option(help="A .json file for the metrics, or a folder for metrics and reports."),
    ] = None,
    batch_size: BatchSize = 32,
    trust_code: TrustCode = False,
) -> None:
    """Evaluate a fine-tuned model on labeled data.

    Without DATA, show the metrics that the run stored when it finished. With it, write the
    prediction of each row, worst mistakes first, and reports such as the confusion matrix, to
    RUN/reports/evaluate or the folder of -o. by=COLUMN splits the metrics by the values of a
    column, slices=[COLUMN,...] compares the rows with each value with all others, slices=auto
    those of each length, label, confidence and folder; groups=[COLUMN,...] shows at which rates
    groups of people get each label.

    \b
    finetune evaluate runs/news-bert-base-uncased-lora
    finetune evaluate runs/news-bert-base-uncased-lora test.csv by=source -o report
    finetune evaluate runs/news-bert-base-uncased-lora test.csv slices=[source,language]
    finetune evaluate runs/news-bert-base-uncased-lora test.csv delimiter=";" -o metrics.json
    """
    from finetune.commands.arguments import source_of

    source = source_of(words, takes_options=True) if words else None
    with loading_libraries():
        from finetune.commands.evaluate_command import show_evaluation, show_run

    if source is None:
        show_run(run, output)
    else:
        show_evaluation(run, source, output, batch_size, trust_code=trust_code)


@commands.command()
def predict(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None, output_option(help="A .csv, .tsv, .jsonl, .json or .parquet file.")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw",
            metavar="FOLDER",
            help="Draw the predictions into this folder.",
            callback=refuse_url_output,
        ),
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
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Add to each prediction the set of labels that contains the true one with this "
            "probability, such as 0.9.",
        ),
    ] = None,
    class_conditional: Annotated[
        bool,
        typer.Option(
            "--class-conditional", help="Cover the rows of each label with that probability."
        ),
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Predict every row of DATA, or every line of standard input.

    Writes the number of each row, its columns and its prediction, or the reason why it has none.
    Without -o, prints JSON lines to standard output, unless only --draw is given. With on=ray, the
    machines of a Ray cluster share the rows, and -o may name a folder for many Parquet files.

    \b
    finetune predict runs/news-bert-base-uncased-lora more.csv -o predictions.csv
    finetune predict runs/news-bert-base-uncased-lora old.csv delimiter=";" -o old.parquet
    finetune predict runs/scenes-tf_efficientnet_lite0-full photos/ --draw drawings/
    finetune predict runs/scenes-tf_efficientnet_lite0-full photos/ -o boxes.csv --as boxes
    finetune predict runs/news-bert-base-uncased-lora more.csv -o sets.csv --coverage 0.9
    finetune predict runs/news-bert-base-uncased-lora shards/ -o predicted/ on=ray
    echo "Shares fell again ..." | finetune predict runs/news-bert-base-uncased-lora -
    """
    from finetune.cluster.cluster_config import take_cluster_keys
    from finetune.commands.arguments import source_of

    sets = {"coverage": coverage, "class_conditional": class_conditional}
    cluster, words = take_cluster_keys(words or [])
    source = source_of(words, missing="-", takes_options=True, options=sets)
    from finetune.commands.preflight import check_prediction
    from finetune.data.source import RowsRequest
    from finetune.inference.prediction_outputs import Destination

    destination = Destination(output, draw, form, safe_csv)
    check_prediction(run, source, destination, cluster)
    with loading_libraries():
        from finetune.cluster.block_commands import predict_on_cluster
        from finetune.distributed.launch import keep_freed_memory
        from finetune.inference.batch_predict import predict_rows

    keep_freed_memory()
    trust = {"trust_code": trust_code}
    if cluster.on is not None and output is not None:
        request = RowsRequest(run, source, batch_size, precision, trust_code)
        predict_on_cluster(request, output, cluster)
    else:
        predict_rows(run, source, destination, batch_size, precision, **trust)


@commands.command()
def report(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[Path | None, output_option(help="A folder; default: RUN/reports.")] = None,
    batch_size: BatchSize = 32,
    trust_code: TrustCode = False,
) -> None:
    """Write a page about the results of a fine-tuned model: what it gets wrong, and why.

    Without DATA, evaluates the test split of the run, or else its validation split. The page shows
    metrics with intervals, learning curves, confusions, thresholds, reliability, the worst errors,
    suspicious labels and leaks, and lists the rows. It is one file that needs no network.
    slices=[COLUMN,...] and groups=[COLUMN,...] replace those of the run, as of evaluate.

    \b
    finetune report runs/news-bert-base-uncased-lora
    finetune report runs/news-bert-base-uncased-lora test.csv -o report
    finetune report runs/news-bert-base-uncased-lora slices=[source]
    """
    from finetune.commands.arguments import report_source
    from finetune.commands.preflight import check_model

    source, slices = report_source(words or [])
    check_model(run, source)
    with loading_libraries():
        from finetune.audit.report_run import write_report
        from finetune.distributed.launch import keep_freed_memory, this_process
        from finetune.reporting.console import Console

    keep_freed_memory()
    console = Console(enabled=this_process().is_main_process)
    write_report(run, source, output, console, batch_size, report=slices, trust_code=trust_code)


@commands.command()
def calibrate(
    run: RunArgument,
    words: DataWords = None,
    batch_size: BatchSize = 32,
    trust_code: TrustCode = False,
) -> None:
    """Calibrate the probabilities of a finished model on labeled rows.

    Fits a temperature, one for each label if a row has several, and folds it into the last layer of
    RUN/final: the model's own library gives calibrated probabilities. Use rows of neither training
    nor test. Thresholds of labels (threshold=auto) and the scores for prediction sets are learned
    from the same rows. Training does this on its validation split (calibrate=...).

    \b
    finetune calibrate runs/news-bert-base-uncased-lora calibration.csv
    """
    from finetune.commands.arguments import source_of
    from finetune.commands.preflight import check_model

    source = source_of(words or [])
    check_model(run, source)
    with loading_libraries():
        from finetune.distributed.launch import keep_freed_memory, this_process
        from finetune.export.recalibrate import calibrate_model
        from finetune.reporting.console import Console

    keep_freed_memory()
    console = Console(enabled=this_process().is_main_process)
    calibrate_model(run, source, console, batch_size, trust_code=trust_code)


@commands.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders.")],
    output: Annotated[Path | None, output_option(help="Write the table to this .csv file.")] = None,
) -> None:
    """Compare runs: their metrics, and the config keys that differ.

    \b
    finetune compare runs/news-bert-frozen runs/news-bert-base-uncased-lora runs/news-bert-full
    finetune compare runs/* -o runs.csv
    """
    from finetune.reporting.comparison import show_comparison

    show_comparison(runs, output)


@commands.command()
def export(
    run: RunArgument,
    words: DataWords = None,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="The format to export to.")] = "onnx",
    output: Annotated[Path | None, output_option(help="A folder; default: RUN/FORMAT.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Export a fine-tuned model, by default to ONNX, and compare it with PyTorch.

    The outputs are compared on rows of DATA, or else on rows of the run: its test, validation or
    training split, whichever exists first.

    \b
    finetune export runs/news-bert-base-uncased-lora --to onnx
    finetune export runs/news-bert-base-uncased-lora test.csv -o news-onnx
    """
    from finetune.commands.arguments import source_of

    source = source_of(words) if words else None
    from finetune.commands.preflight import check_model
    from finetune.export.exporters import check_format, find_exporter

    check_format(to)
    check_model(run, source)
    with loading_libraries():
        exporter = find_exporter(to)
    exporter(run, source, output, trust_code)


@commands.command()
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


@commands.command()
def reproduce(
    run: RunArgument,
    words: DataWords = None,
    output: Annotated[
        Path | None,
        output_option(metavar="FOLDER", help="Default: RUN-reproduced, in runs/ for a hub id."),
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a model again from its card, and compare the two.

    Checks the rows by their digests and the versions, trains into a new folder, and compares: on a
    CPU with equal versions all weights must be equal bit for bit, elsewhere the metrics must be
    within their 95 % intervals. Exits with 1 if they are not. DATA and KEY=VALUE say where the rows
    and the network lie on this machine.

    \b
    finetune reproduce runs/news-bert-base-uncased-lora
    finetune reproduce me/news data=news.csv model=bert-base-uncased
    """
    from finetune.commands.arguments import data_and_overrides
    from finetune.config.yaml import split_overrides

    data, overrides = data_and_overrides(words or [])
    keys = split_overrides(overrides)
    keys |= {"data.source": data} if data is not None else {}
    with loading_libraries():
        from finetune.distributed.launch import keep_freed_memory, this_process
        from finetune.inspection.reproduce import reproduce_run
        from finetune.reporting.console import Console

    keep_freed_memory()
    console = Console(enabled=this_process().is_main_process)
    reproduce_run(run, keys, output, console, trust_code=trust_code)
