"""Blocks of rows, and the parts that one process makes of them, without Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.cluster import block_work, row_blocks
from finetune.cluster.block_work import BlockActor, EmbedJob, PredictJob
from finetune.cluster.ray_cluster import Workplace, library_versions
from finetune.cluster.row_blocks import RowBlocks, open_blocks
from finetune.config.schema import DataConfig
from finetune.data.source import RowsRequest, Source
from finetune.errors import DataError
from finetune.inference import batch_predict, embedding
from finetune.inference.part_files import PartFiles
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows
from tests.support.tiny_vision import shape_folder, tiny_timm

ROWS = 11
TEXTS = [None if number == 5 else row["text"] for number, row in enumerate(text_rows(ROWS))]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (row_blocks, block_work, batch_predict, embedding):
        monkeypatch.setattr(module, "WINDOW", 4)  # three blocks, the last one incomplete
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # set by a process of a cluster, reset here


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Files of 3, 1 and 7 rows, in row groups of 2."""
    folder, start = tmp_path / "shards", 0
    folder.mkdir()
    table = pa.table({"id": range(ROWS), "text": pa.array(TEXTS, pa.string())})
    for number, count in enumerate((3, 1, 7)):
        pq.write_table(table.slice(start, count), folder / f"{number}.parquet", row_group_size=2)
        start += count
    return folder


def opened(reference: Path, folder: Path, **keys: object) -> RowBlocks:
    """Return the blocks of a source that a task without images reads."""
    source = Source(str(reference), DataConfig(**keys))

    def read_table() -> object:
        from finetune.data.opening import open_numbered_rows

        return open_numbered_rows(source.reference, source.config, keeps_unreadable=True)

    return open_blocks(source, folder, read_table)


def test_blocks_of_parquet_files_span_files_and_row_groups(shards: Path, tmp_path: Path) -> None:
    blocks = opened(shards, tmp_path / "rows")
    assert (blocks.rows, blocks.size) == (ROWS, 4)
    read = [blocks.read(number) for number in range(3)]
    assert [rows["id"][:] for rows, _ in read] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [list(numbers) for _, numbers in read] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
    assert not (tmp_path / "rows").exists()  # read where they lie


def test_other_sources_are_written_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    lines = ["id,text", *(f"{number},text {number}" for number in range(6))]
    lines[3] += ",a cell too many"
    path.write_text("\n".join(lines))
    blocks = opened(path, tmp_path / "rows")
    assert len(list((tmp_path / "rows").iterdir())) == 2
    (first, numbers), (second, others) = blocks.read(0), blocks.read(1)
    assert [*numbers, *others] == [1, 2, 3, 4, 5, 6]
    assert [*first["id"], *second["id"]] == ["0", "1", None, "3", "4", "5"]
    before = blocks.digest()
    assert opened(path, tmp_path / "rows").digest() == before
    path.write_text("\n".join(lines).replace("text 4", "text 44"))
    assert opened(path, tmp_path / "rows").digest() != before


def test_files_that_were_written_again_have_another_digest(shards: Path, tmp_path: Path) -> None:
    before = opened(shards, tmp_path / "rows").digest()
    table = pq.read_table(shards / "1.parquet")
    pq.write_table(table, shards / "1.parquet", compression="none")
    assert opened(shards, tmp_path / "rows").digest() != before


def test_blocks_of_many_rows_are_larger() -> None:
    billion = RowBlocks([], [10**9], None)
    assert billion.size == 64 * 4
    assert RowBlocks([], [10**5], None).size == 7 * 4


def test_parts_of_blocks_are_what_predict_writes(
    finished_run: Path, shards: Path, tmp_path: Path
) -> None:
    whole = pa.concat_tables([pq.read_table(path) for path in sorted(shards.iterdir())])
    pq.write_table(whole, tmp_path / "rows.parquet")
    output = tmp_path / "out.parquet"
    assert finetune("predict", finished_run, tmp_path / "rows.parquet", "-o", output) == 0

    blocks = opened(shards, tmp_path / "rows")
    parts = PartFiles(tmp_path / "parts.parquet", "", blocks.rows, blocks.size)
    parts.prepare()
    workplace = Workplace(Path.cwd(), parts.folder, 1, 0, library_versions())
    job = PredictJob(RowsRequest("", Source("rows")), finished_run / "final")
    actor = BlockActor(workplace, job, blocks, parts)
    results = [actor({"block": [number]}) for number in range(3)]
    assert [result["fault"] for result in results] == [[""]] * 3
    assert sum(result["rows"][0] for result in results) == ROWS
    parts.concatenate()
    assert pq.read_table(tmp_path / "parts.parquet").equals(pq.read_table(output))


@pytest.mark.parametrize(
    ("shared", "versions", "message"),
    [
        ("elsewhere", {}, "elsewhere is missing on the machine"),
        (".", {"torch": "1.0"}, "and the command 1.0; install the same version on all machines"),
    ],
)
def test_a_machine_that_differs_is_a_result_with_its_name(
    shared: str, versions: dict[str, str], message: str, shards: Path, tmp_path: Path
) -> None:
    blocks = opened(shards, tmp_path / "rows")
    parts = PartFiles(tmp_path / "parts.parquet", "", blocks.rows, blocks.size)
    job = PredictJob(RowsRequest("", Source("rows")), tmp_path / "final")
    workplace = Workplace(Path.cwd(), tmp_path / shared, 1, 0, library_versions() | versions)
    result = BlockActor(workplace, job, blocks, parts)({"block": [0]})
    assert message in result["fault"][0]
    assert socket.gethostname() in result["fault"][0]
    assert result["is_bug"] == [False]


def test_a_damaged_parquet_file_is_named(shards: Path, tmp_path: Path) -> None:
    (shards / "1.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"1\.parquet: cannot be read as Parquet"):
        opened(shards / "1.parquet", tmp_path / "rows")


def test_parts_of_images_are_what_embed_writes(tmp_path: Path) -> None:
    images, network = shape_folder(tmp_path / "shapes", 6), tiny_timm(tmp_path / "network")
    output = tmp_path / "out.parquet"
    assert finetune("embed", network, images, "-o", output, "--precision", "fp32") == 0
    blocks = opened(images, tmp_path / "rows")
    parts = PartFiles(tmp_path / "parts.parquet", "", blocks.rows, blocks.size)
    parts.prepare()
    job = EmbedJob(RowsRequest(str(network), Source(str(images)), precision="fp32"))
    workplace = Workplace(Path.cwd(), parts.folder, 1, 0, library_versions())
    actor = BlockActor(workplace, job, blocks, parts)
    assert [actor({"block": [number]})["fault"] for number in range(parts.count)] == [
        [""]
    ] * parts.count
    parts.concatenate()
    assert pq.read_table(tmp_path / "parts.parquet").equals(pq.read_table(output))
