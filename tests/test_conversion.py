"""A network as ONNX says what PyTorch says, for any number of rows of any length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import finetune
from finetune.conversion import convert
from finetune.errors import ModelError
from finetune.prediction import load
from tests.command_line import finetune as command
from tests.lives import one_thread
from tests.tiny_models import text_rows
from tests.tiny_vision import shape_folder, tiny_timm, tiny_vit

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_text_classifier_is_exported_and_compared(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    assert command("export", finished_run, "--to", "onnx", "-o", tmp_path / "onnx") == 0
    said = capsys.readouterr().out
    assert "on 24 rows the outputs differ by" in said
    names = {path.name for path in (tmp_path / "onnx").iterdir()}
    assert names == {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} | (
        {"task.json"}
    )
    predictor = load(finished_run, device="cpu")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    labels = json.loads((tmp_path / "onnx" / "config.json").read_text())["id2label"]
    for row in text_rows(4, seed=8):  # one row each, of unequal length
        batch = predictor.adapter.collate([predictor.adapter.encode({"text": row["text"]})])
        given = {name: tensor.numpy() for name, tensor in batch["inputs"].items()}
        (logits,) = session.run(["logits"], given)
        assert labels[str(np.argmax(logits))] == predictor([row["text"]])[0]["label"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_timm, tiny_vit])
def test_image_classifier_is_exported_and_compared(make: object, tmp_path: Path) -> None:
    model, data = make(tmp_path / "model"), shape_folder(tmp_path / "shapes")  # type: ignore[operator]
    with one_thread():
        run = finetune.train(
            "image-classification",
            data=str(data),
            model=str(model),
            method="lora",
            max_steps=2,
            output=str(tmp_path / "run"),
        )
        assert convert(str(run.path), [], "onnx", None) < 1e-4
    assert (run.path / "onnx" / "model.onnx").is_file()


def test_outputs_that_differ_are_refused(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(model: object, task: object, rows: object, path: Path) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr("finetune.conversion._export", export)
    monkeypatch.setattr("finetune.conversion.compare", lambda *_: float("inf"))
    with pytest.raises(ModelError, match="differ by inf"):
        convert(str(finished_run), [], "onnx", tmp_path / "onnx")
    assert not (tmp_path / "onnx" / "model.onnx").exists()


def test_task_that_cannot_be_exported_says_so(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.text_classification.TextClassification.export_axes", ())
    assert command("export", finished_run) == 2
    assert "text-classification cannot be written as onnx" in capsys.readouterr().err
    assert command("export", finished_run, "--to", "tflite") == 2
    assert "choose from: onnx" in capsys.readouterr().err
