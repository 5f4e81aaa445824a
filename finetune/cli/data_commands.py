"""The commands that describe rows. Each calls one function, imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from finetune.cli.options import (
    KEYS,
    BatchSize,
    ConfigWords,
    Precision,
    TrustCode,
    load_words,
    loading_libraries,
    output_option,
)

commands = typer.Typer()


@commands.command()
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
    output: Annotated[Path, output_option(help="A .parquet file.")],
    batch_size: BatchSize = 32,
    precision: Precision = None,
    trust_code: TrustCode = False,
) -> None:
    """Embed every row of DATA: write its index and its feature vector.

    The vector is what a classification head would read. An interrupted command resumes when
    repeated; under `accelerate launch` the processes share the rows, with on=ray the machines of a
    Ray cluster. Give task=NAME if the columns do not determine the task.

    \b
    finetune embed sentence-transformers/all-MiniLM-L6-v2 news.csv -o features.parquet
    finetune embed timm/resnet50.a1_in1k photos/ -o features.parquet
    finetune embed runs/news-bert-base-uncased-lora news.csv task.text=body -o features.parquet
    finetune embed sentence-transformers/all-MiniLM-L6-v2 shards/ -o vectors/ on=ray
    """
    from finetune.cluster.cluster_config import take_cluster_keys
    from finetune.commands.arguments import embedding_source
    from finetune.data.source import RowsRequest

    cluster, words = take_cluster_keys(words)
    request = RowsRequest(model, embedding_source(words), batch_size, precision, trust_code)
    from finetune.commands.preflight import check_embedding

    check_embedding(model, request.source, output, cluster)
    with loading_libraries():
        from finetune.cluster.block_commands import embed_on_cluster
        from finetune.distributed.launch import keep_freed_memory
        from finetune.inference.embedding import embed_rows

    keep_freed_memory()
    if cluster.on is not None:
        embed_on_cluster(request, output, cluster)
    else:
        embed_rows(request, output)


@commands.command()
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
        Path | None, output_option(help="A folder; default: explore/DATA-MODEL.")
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
    from finetune.commands.explore_command import plan_exploration
    from finetune.data.source import RowsRequest

    model, source, folder = plan_exploration(words, output, trust_code=trust_code)
    request = RowsRequest(model, source, batch_size, precision, trust_code)
    with loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.exploration.explore import explore_rows

    keep_freed_memory()
    explore_rows(request, folder, clusters, seed)


@commands.command(context_settings=KEYS)
def check(
    words: ConfigWords = None,
    output: Annotated[
        Path | None, output_option(metavar="FOLDER", help="Write findings and duplicates.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Check data before training: what will harm a model, worst first, each with its remedy.

    Takes DATA, or the arguments of `train`, or a run. Finds leaks and duplicates, equal and nearly
    equal, labels that contradict each other, columns and words that give the label away, and what
    is unusual in texts, pictures and boxes. -o writes the rows concerned: findings.json,
    duplicates.csv, and drop.csv for data.drop. No network is loaded.

    \b
    finetune check news.csv
    finetune check news.csv task.text=body task.label=topic validation=0.1 -o check/
    finetune check runs/news-bert-base-uncased-lora
    """
    from finetune.commands.check_command import load_for_check

    with loading_libraries():
        loaded = load_for_check(words or [], trust_code=trust_code)
        from finetune.checks.data_check import check_data
        from finetune.registry import make_task
        from finetune.reporting.console import Console

        task = make_task(loaded.config.task)
    check_data(loaded, task, Console(), output)


@commands.command()
def suggest(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL", help="A fine-tuned RUN; for the first rows, a pretrained model."
        ),
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="POOL|KEY=VALUE",
            help="A file, folder or hub dataset, and keys that say how to read it, in any order.",
        ),
    ],
    output: Annotated[Path, output_option(help="The table to write: .csv, .jsonl, ...")] = Path(
        "to_label.csv"
    ),
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of rows.")] = 100,
    by: Annotated[
        Literal["both", "uncertainty", "diversity", "typicality"] | None,
        typer.Option(help="Default: both for a run, typicality for a pretrained model."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clusters.")] = 0,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    trust_code: TrustCode = False,
) -> None:
    """Suggest which rows of POOL to label next, and write a sheet to fill in.

    Chosen are rows that the run is uncertain about and that differ from each other; outliers, rows
    that have a label and rows that the run was trained on are left out. Fill in the column of the
    label, then train with data.answers=FILE, which joins the rows to the others.

    \b
    finetune suggest sentence-transformers/all-MiniLM-L6-v2 pool.csv -n 20 -o first.csv
    finetune train task=text-classification data=first.csv method=frozen model=...
    finetune suggest runs/first-all-MiniLM-L6-v2-frozen pool.csv -n 20 -o second.csv
    finetune train task=text-classification data=first.csv data.answers=second.csv ...
    """
    from finetune.commands.arguments import embedding_source
    from finetune.commands.preflight import check_suggestion
    from finetune.data.source import RowsRequest

    source = embedding_source(words)
    check_suggestion(model, source, output)
    with loading_libraries():
        from finetune.distributed.launch import keep_freed_memory
        from finetune.labeling.suggest import suggest_rows

    keep_freed_memory()
    request = RowsRequest(model, source, batch_size, precision, trust_code)
    suggest_rows(request, output, count, by, seed)


@commands.command(name="label-issues", context_settings=KEYS)
def label_issues(
    words: ConfigWords = None,
    output: Annotated[
        Path | None, output_option(help="The table to write; default: label_issues.csv.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Find training rows whose label is probably wrong, before or after training.

    Takes the arguments of `train`, or a run folder, whose reports then hold the table. A head is
    fitted to features of the pretrained network on four fifths of the rows, and compared with the
    labels of the others; boxes are compared with what the detector of a run finds. Review the
    table, then train with it: data.drop=FILE leaves its rows (or boxes) out, data.relabel=FILE
    gives them what is in "suggested", and in "suggested_box".

    \b
    finetune label-issues task=text-classification data=news.csv model=bert-base-uncased
    finetune label-issues runs/news-bert-base-uncased-lora
    finetune train news.yaml data.relabel=label_issues.csv
    """
    from finetune.commands.arguments import config_and_overrides
    from finetune.config.yaml import read_yaml, split_overrides
    from finetune.inference.stored_code import check_stored_config
    from finetune.io.run_folder import RunFolder
    from finetune.io.table_writer import check_output

    name, overrides = config_and_overrides(words)
    path, run = output or Path("label_issues.csv"), None
    if name is not None and (folder := RunFolder(Path(name))).has_config:
        run, file = folder, folder.path / "config.yaml"
        given = split_overrides(overrides)
        check_stored_config(read_yaml(file), file, trust_code=trust_code, given=given)
        name, path = str(file), output or run.path / "reports" / path
    check_output(path)
    loaded = load_words([*([name] if name is not None else []), *overrides])
    with loading_libraries():
        from finetune.distributed.launch import keep_freed_memory, this_process
        from finetune.inspection.label_issues import write_label_issues
        from finetune.registry import make_task
        from finetune.reporting.console import Console

        task = make_task(loaded.config.task)
    keep_freed_memory()
    console = Console(enabled=this_process().is_main_process)
    write_label_issues(loaded, task, path, console, run=run)
