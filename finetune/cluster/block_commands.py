"""The commands `predict` and `embed` on a cluster."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from finetune.batching.feature_key import digest_model
from finetune.cluster.block_runs import BlockRun
from finetune.cluster.block_work import BlockFacts, EmbedJob, PredictJob
from finetune.cluster.cluster_config import ClusterConfig
from finetune.cluster.ray_cluster import connected
from finetune.cluster.row_blocks import RowBlocks, open_blocks
from finetune.data.opening import open_numbered_rows
from finetune.data.source import RowsRequest, Source
from finetune.errors import DataError, format_count
from finetune.inference.model_loading import load_task, model_folder
from finetune.inference.part_files import PartFiles, writing_alone
from finetune.inference.prediction_inputs import open_table, stops_at_faults
from finetune.inference.prediction_outputs import ERROR
from finetune.inference.predictor import check_columns
from finetune.io.files import remove_path, sha256_of
from finetune.reporting.console import Console
from finetune.tables.faults import SHOWN


def predict_on_cluster(request: RowsRequest, output: Path, config: ClusterConfig) -> None:
    """Predict all rows on the machines of a cluster; see `predict_rows`.

    Raises FinetuneError, and Interrupted after a signal.
    """
    console = Console(stderr=True)
    source, folder = request.source, model_folder(request.model).absolute()
    task = load_task(folder, source.options, trust_code=request.trust_code)
    reads_here = task.config.reads_images or stops_at_faults(source.config)
    job = PredictJob(_named(request), folder)
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    with writing_alone(output):
        with console.during("reading the rows"):
            blocks = open_blocks(
                source, _staging(output), lambda: open_table(source, task), direct=not reads_here
            )
        check_columns(source.name, blocks.head().column_names, task)
        console.facts({"data": "\n".join(blocks.notes)} if blocks.notes else {})
        skips = source.config.on_error == "skip"
        made_of = [files, source.options, request.precision, request.batch_size, skips]
        with _prepared(output, blocks, made_of, config, console) as run_blocks:
            run_blocks.run(job)
            _give_same_columns(run_blocks, job)
            total = run_blocks.total()
            if not total.written:
                raise DataError(f"{source.name}: no valid row left: {_kinds(total.faults)}")
            run_blocks.publish()
    for note in _notes(total, source, output):
        console.print(note)


def embed_on_cluster(request: RowsRequest, output: Path, config: ClusterConfig) -> int:
    """Embed all rows on the machines of a cluster; see `embed_rows`.

    Returns the number of vectors. Raises FinetuneError, and Interrupted after a signal.
    """
    console = Console()
    source, local = request.source, Path(request.model)
    if local.is_dir():
        request = replace(request, model=str(local.absolute()))

    def read_table() -> tuple[Dataset, list[str], Sequence[int]]:
        return open_numbered_rows(source.reference, source.config, source.split)

    with writing_alone(output):
        notes, job = list[str](), EmbedJob(_named(request))
        with console.during("reading the rows"):
            blocks = open_blocks(source, _staging(output), read_table)
        with console.during("loading the network"):
            task, network = job.find_network(blocks, notes)
        if task.config.reads_images and blocks.config is not None:
            with console.during("reading the rows"):  # again, to find the files of the images
                blocks = open_blocks(source, _staging(output), read_table, direct=False)
        digest = digest_model(network, request.precision or "").hexdigest()
        made_of = [digest, task.resolved_.model_dump_json(), source.config.on_error]
        facts = {"data": "\n".join([*blocks.notes, *notes]), "task": task.name}
        console.facts({name: text for name, text in facts.items() if text})
        with _prepared(output, blocks, made_of, config, console) as run_blocks:
            run_blocks.run(job)
            total = run_blocks.total()
            run_blocks.publish()
    skipped = f", {total.rows - total.written} skipped" if total.written < total.rows else ""
    for note in _truncated(total):
        console.print(note)
    console.print(f"{total.written} vectors written to {output}{skipped}")
    return total.written


def _named(request: RowsRequest) -> RowsRequest:
    """Leave out rows that were made in Python: the blocks have them, and only names travel."""
    return replace(request, source=replace(request.source, reference=request.source.name))


def _staging(output: Path) -> Path:
    """Return the folder for rows that are not in Parquet yet."""
    return output.with_name(f"{output.name}.rows")


@contextmanager
def _prepared(
    output: Path,
    blocks: RowBlocks,
    made_of: Sequence[Any],
    config: ClusterConfig,
    console: Console,
) -> Iterator[BlockRun]:
    """Connect to the cluster, and keep the parts of an earlier start that are of the same rows."""
    facts = json.dumps([*made_of, blocks.digest()], sort_keys=True, default=str)
    digest = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()
    parts = PartFiles(output, digest, blocks.rows, blocks.size)
    with connected(config, console) as cluster:
        parts.prepare()
        run_blocks = BlockRun(cluster, blocks, parts, console)
        if kept := parts.count - len(run_blocks.unfinished()):
            console.print(f"{kept} of {parts.count} blocks are there from an earlier start")
        yield run_blocks
    remove_path(_staging(output))


def _give_same_columns(run_blocks: BlockRun, job: PredictJob) -> None:
    """Make parts again whose columns differ from those of all parts together.

    Such as a part of rows without any prediction, or one in which all values of a column are null.
    """
    parts = run_blocks.parts
    schemas = [pa.parquet.read_schema(parts.path_of(number)) for number in range(parts.count)]
    fullest = max(schemas, key=len)
    try:
        columns = pa.unify_schemas([fullest, *schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{parts.output}: the blocks have values that do not fit one column ({error}); predict "
            "without on=ray, to a .jsonl file"
        ) from error
    differing = [number for number, each in enumerate(schemas) if not each.equals(columns)]
    if not differing:
        return
    path = parts.folder / "columns.parquet"
    pa.parquet.write_table(columns.empty_table(), path)
    names = run_blocks.total().names or []
    run_blocks.reopen(differing)
    run_blocks.run(replace(job, columns=path.absolute(), names=names))
    path.unlink()


def _notes(total: BlockFacts, source: Source, output: Path) -> Iterator[str]:
    """Yield what the user should know about the rows of `predict`."""
    for caveat, count in total.caveats.items():
        yield f"{count} of {total.rows} rows: {caveat}"
    missing = total.rows - total.predicted
    if missing and total.written < total.rows:
        yield f"{source.name}: {missing} of {total.rows} rows skipped: {_kinds(total.faults)}"
    elif missing:
        yield (
            f"{source.name}: {missing} of {total.rows} rows without a prediction, for the reason in"
            f" column {ERROR}: {_kinds(total.faults)}"
        )
    yield from _truncated(total)
    some = f", {total.predicted} with a prediction" if total.predicted < total.written else ""
    yield f"{format_count(total.written, 'row')} written to {output}{some}"


def _truncated(total: BlockFacts) -> list[str]:
    note = "rows truncated to the maximum length of the model"
    return [f"{total.truncated} of {total.rows} {note}"] if total.truncated else []


def _kinds(faults: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} ({count})" for kind, count in Counter(faults).most_common(SHOWN))
