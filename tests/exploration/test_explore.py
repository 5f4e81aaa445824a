"""`finetune explore` on texts and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from finetune.analysis import projections
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows
from tests.support.tiny_vision import shape_folder, tiny_timm


@pytest.fixture(autouse=True)
def _without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compilation takes a minute."""
    monkeypatch.setattr(projections, "find_spec", lambda name: None)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [
        {**row, "length": len(row["text"]), "site": "ab"[n % 2]}
        for n, row in enumerate(text_rows(40))
    ]
    rows[7] = {**rows[3]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_explore_writes_tables_pictures_and_a_page(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    words = ("explore", table, f"model={bert_folder}", "-o", folder, "--precision", "fp32")
    assert finetune(*words) == 0
    output = capsys.readouterr().out
    assert "topographic error" in output
    assert "agreement of k-means with the labels: NMI" in output
    columns = pq.read_table(folder / "explore.parquet").to_pydict()
    assert columns["row"] == list(range(40))
    assert columns["label"] == [row["label"] for row in _rows(table)]
    assert columns["duplicate_of"][7] == 3
    for name in ("tsne_x", "pca_y", "cluster", "hdbscan", "som_row", "outlier_score"):
        assert len(columns[name]) == 40
    figures = json.loads((folder / "explore.json").read_text())
    assert figures["rows"] == 40
    assert figures["clusters"] == len(set(columns["cluster"])) == len(figures["names"])
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("index.html", "explore.json", "explore.parquet", "features.parquet", "tsne.png"),
        *("pca.png", "self-organizing-map.png", "silhouettes.png"),
    }
    page = json.loads(_data(folder))
    assert [color["name"] for color in page["colors"]] == [
        *("cluster", "label", "HDBSCAN", "outlier score", "near duplicate", "length", "site")
    ]

    first = (folder / "explore.parquet").read_bytes()
    assert finetune(*words) == 0
    assert "reused" in capsys.readouterr().out
    assert (folder / "explore.parquet").read_bytes() == first  # a function of the seed

    changed = _rows(table)
    changed[0]["text"] = "another goal"
    table.write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert finetune(*words, "--clusters", 3) == 0
    assert "reused" not in capsys.readouterr().out
    assert json.loads((folder / "explore.json").read_text())["clusters"] == 3


def test_explore_a_run_alone_explores_the_rows_that_it_was_trained_on(
    finished_run: Path, tmp_path: Path
) -> None:
    assert finetune("explore", finished_run, "-o", tmp_path / "out") == 0
    figures = json.loads((tmp_path / "out" / "explore.json").read_text())
    assert figures["rows"] == 50
    assert figures["agreement_k_means"]["purity"] > 0.5


def test_explore_shows_pictures_of_each_cluster(tmp_path: Path) -> None:
    model, data = tiny_timm(tmp_path / "timm"), shape_folder(tmp_path / "shapes", count=12)
    folder = tmp_path / "out"
    assert finetune("explore", data, f"model={model}", "-o", folder, "--clusters", 2) == 0
    assert (folder / "cluster-0.png").is_file()
    assert (folder / "cluster-1.png").is_file()
    pictures = json.loads(_data(folder))["pictures"]
    assert len(pictures) == 12
    assert all(url.startswith("data:image/jpeg;base64,") for url in pictures.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "model=NAME is missing"),
        (("model={bert}", "label=topic"), "topic"),
        (("model={bert}", "--clusters", "2", "limit=2"), "too few"),
    ],
)
def test_explore_refuses_what_it_cannot_do(
    words: tuple[str, ...],
    message: str,
    bert_folder: Path,
    table: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    filled = [word.format(bert=bert_folder) for word in words]
    assert finetune("explore", table, *filled, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "features.parquet").exists()  # computed for nothing


def test_explore_writes_into_no_folder_of_other_files(
    bert_folder: Path, table: Path, capsys: Any
) -> None:
    words = ("explore", table, f"model={bert_folder}", "-o")
    assert finetune(*words, table.parent) == 2
    assert f"holds other files, such as {table.name}; name a new folder" in " ".join(
        capsys.readouterr().err.split()
    )
    assert finetune(*words, table) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_explore_copes_with_rows_that_are_all_equal(
    bert_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    table = tmp_path / "equal.jsonl"
    table.write_text('{"text": "the same goal"}\n' * 6)
    words = ("explore", table, f"model={bert_folder}", "-o", tmp_path / "out", "--clusters", 3)
    assert finetune(*words) == 0
    output = capsys.readouterr().out
    assert "--clusters 3: no more than 1 different row, a cluster each" in output
    assert "5 near duplicates" in output
    columns = pq.read_table(tmp_path / "out" / "explore.parquet").to_pydict()
    assert columns["tsne_x"] == [0.0] * 6


def test_explore_names_the_extra_that_is_missing(
    bert_folder: Path, table: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from finetune.analysis import requirements

    monkeypatch.setattr(requirements, "SKLEARN", "no_such_package")
    assert finetune("explore", table, f"model={bert_folder}", "-o", tmp_path / "out") == 2
    assert "pip install 'finetune-kit[explore]'" in capsys.readouterr().err


def _rows(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.read_text().splitlines()]


def _data(folder: Path) -> str:
    text = (folder / "index.html").read_text(encoding="utf-8")
    return text.partition('id="data">')[2].partition("</script>")[0]
