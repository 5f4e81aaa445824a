"""`finetune embed`: one vector per row, in order, across interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer

from finetune.cluster.predict_and_embed import embed
from finetune.errors import ConfigError, DataError
from finetune.inference import embedding
from tests.support.command_line import finetune, launch
from tests.support.lives import Killed
from tests.support.tiny_models import WIDTH, text_rows
from tests.support.tiny_vision import shape_folder, tiny_timm

EXACT = ("--precision", "fp32")  # some CPUs would choose bf16
ROWS = [{"id": f"n{number}", **row} for number, row in enumerate(text_rows(11, seed=5))]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "WINDOW", 4)  # three windows, the last one incomplete


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def read(path: Path) -> tuple[list[int], np.ndarray]:
    columns = pq.read_table(path).to_pydict()
    assert list(columns) == ["row", "vector"]
    return columns["row"], np.array(columns["vector"], dtype=np.float32)


def mean_pooled(model: Path, texts: list[str]) -> np.ndarray:
    """Mean-pooled vectors of the texts, by transformers alone."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)
    network.eval()
    vectors = []
    for text in texts:
        with torch.inference_mode():
            states = network(**tokenizer(text, return_tensors="pt")).last_hidden_state
        vectors.append(states[0].mean(0).numpy())
    return np.stack(vectors)


def test_embed_takes_bare_values_of_any_length(bert_folder: Path, tmp_path: Path) -> None:
    words = ["shares", "goal"]
    vectors = embed(str(bert_folder), words, precision="fp32")
    np.testing.assert_allclose(vectors, mean_pooled(bert_folder, words), rtol=1e-4, atol=1e-5)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    image = embed(str(tiny_timm(tmp_path / "resnet")), [str(tmp_path / "red.png")])
    assert image.shape[0] == 1


def test_embed_equals_mean_pooling_in_transformers(
    bert_folder: Path, table: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features.parquet"
    assert finetune("embed", bert_folder, table, "-o", output, "--batch-size", 3, *EXACT) == 0
    rows, vectors = read(output)
    assert rows == list(range(11))
    assert vectors.shape == (11, WIDTH)
    assert np.allclose(vectors, mean_pooled(bert_folder, [r["text"] for r in ROWS]), atol=1e-5)
    assert not output.with_name("features.parquet.parts").exists()


def test_embed_returns_the_vectors_that_it_would_write(
    finished_run: Path, bert_folder: Path, table: Path, tmp_path: Path
) -> None:
    output, texts = tmp_path / "features.parquet", [row["text"] for row in ROWS]
    for model in (bert_folder, finished_run):
        assert embed(model, table, output, precision="fp32") == len(ROWS)
        vectors = embed(model, table, precision="fp32")
        assert np.array_equal(vectors, read(output)[1])
        assert np.array_equal(embed(model, texts, precision="fp32"), vectors)


def test_embed_skips_invalid_rows_in_memory(bert_folder: Path) -> None:
    rows = [{"text": ""}, {"text": "a goal"}]
    with pytest.raises(DataError, match="row 1: "):
        embed(bert_folder, rows)
    assert embed(bert_folder, rows, on_error="skip").shape == (1, WIDTH)


def test_embed_writes_vectors_of_images(tmp_path: Path) -> None:
    model, data = tiny_timm(tmp_path / "timm"), shape_folder(tmp_path / "shapes", count=6)
    assert finetune("embed", model, data, "-o", tmp_path / "features.parquet") == 0
    rows, vectors = read(tmp_path / "features.parquet")
    assert rows == list(range(6))
    assert len(np.unique(vectors.round(6), axis=0)) == 6


def test_embed_with_a_run_writes_the_inputs_of_its_head(
    finished_run: Path, table: Path, tmp_path: Path
) -> None:
    from finetune.inference.predictor import load

    assert finetune("embed", finished_run, table, "-o", tmp_path / "features.parquet") == 0
    _, vectors = read(tmp_path / "features.parquet")
    predictor = load(finished_run, device="cpu")
    logits = predictor.model.network.classifier(torch.from_numpy(vectors))
    labels = [predictor.trained_task.targets_.names[index] for index in logits.argmax(1).tolist()]
    assert labels == [
        prediction["label"] for prediction in predictor([row["text"] for row in ROWS])
    ]


def test_embed_reuses_finished_parts_after_an_interruption(
    bert_folder: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, computed = tmp_path / "features.parquet", list[int]()
    original = embedding.RowEmbedder.__call__

    def failing(self: Any, rows: Any) -> Any:
        computed.append(len(rows))
        if len(computed) == 3:
            raise Killed
        return original(self, rows)

    monkeypatch.setattr(embedding.RowEmbedder, "__call__", failing)
    with pytest.raises(Killed):
        finetune("embed", bert_folder, table, "-o", output, *EXACT)
    assert not output.exists()
    rows = [*ROWS[:4], {**ROWS[4], "text": "another text"}, *ROWS[5:]]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert finetune("embed", bert_folder, table, "-o", output, *EXACT) == 0
    assert computed == [4, 4, 3, 4, 3], "the changed window and the interrupted one"
    assert "1 part reused" in capsys.readouterr().out
    expected = mean_pooled(bert_folder, [row["text"] for row in rows])
    assert np.allclose(read(output)[1], expected, atol=1e-5)


def test_embed_keeps_row_numbers_when_rows_are_skipped(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, output = tmp_path / "rows.csv", tmp_path / "features.parquet"
    table.write_text("text,n\nshares fell,1\n  ,2\nthe match was won,3\n")
    assert finetune("embed", bert_folder, table, "-o", output, *EXACT) == 2
    assert "row 2: text is empty" in capsys.readouterr().err
    assert finetune("embed", bert_folder, table, "on_error=skip", "-o", output) == 0
    assert read(output)[0] == [0, 2]
    assert "1 skipped" in capsys.readouterr().out


def test_embed_considers_only_tasks_with_the_given_keys(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.parquet"
    assert finetune("embed", bert_folder, table, "task.text=body", "-o", output) == 2
    message = capsys.readouterr().err
    assert "there is no column 'body'" in message
    assert "image" not in message
    assert finetune("embed", bert_folder, table, "task.txt=body", "-o", output) == 2
    assert "task.txt: no task has this key; did you mean 'text'?" in (capsys.readouterr().err)


def test_embed_in_python_equals_the_command(bert_folder: Path, table: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"task.max_length": 8}
    count = embed(bert_folder, ROWS, tmp_path / "python.parquet", **keys)
    assert count == len(read(tmp_path / "python.parquet")[0])
    output = tmp_path / "shell.parquet"
    assert finetune("embed", bert_folder, table, "task.max_length=8", "-o", output) == 0
    assert np.array_equal(read(output)[1], read(tmp_path / "python.parquet")[1])
    with pytest.raises(
        ConfigError, match="limt: unknown key for reading rows; did you mean 'limit'"
    ):
        embed(bert_folder, table, output, limt=3)


def test_embed_rejects_a_misspelled_key_of_a_run(
    finished_run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.parquet"
    assert finetune("embed", finished_run, table, "task.txet=text", "-o", output) == 2
    assert "txet: unknown key of text-classification" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["rows.jsonl", "-o", "x.csv"], "name a .parquet file"),
        (["rows.jsonl", "task.text=body", "-o", "x.parquet"], "there is no column 'body'"),
        (["rows.jsonl", "task=image-classification", "-o", "x.parquet"], "image"),
    ],
)
def test_embed_names_the_remedy(
    words: list[str],
    remedy: str,
    bert_folder: Path,
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(table.parent)
    assert finetune("embed", bert_folder, *words) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.slow
def test_embed_does_not_depend_on_the_number_of_processes(
    bert_folder: Path, table: Path, tmp_path: Path
) -> None:
    script = (
        "import finetune.inference.embedding as e, finetune.cli.main as c; e.WINDOW = 4; c.main()"
    )
    results = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.parquet"
        launch(script, processes, "embed", str(bert_folder), str(table), "-o", str(output))
        results.append(read(output))
    assert results[0][0] == results[1][0]
    assert np.allclose(results[0][1], results[1][1], atol=1e-6)
