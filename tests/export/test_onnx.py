"""ONNX export: outputs equal PyTorch's for any batch size and length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import ModelError
from finetune.export.onnx import TOLERANCE, _row_difference, _rows_of_run, export_onnx
from finetune.inference.model_loading import load_task
from finetune.inference.predictor import load
from tests.support.command_line import finetune as command
from tests.support.strangers import Case, World
from tests.support.tiny_detectors import MAKERS
from tests.support.tiny_models import text_rows
from tests.support.tiny_scenes import SIZE

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_export_command_writes_a_verified_text_classifier(
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    monkeypatch.setattr("finetune.reporting.console.SECONDS_OF_SILENCE", 0.01)
    assert command("export", finished_run, "--to", "onnx", "-o", tmp_path / "onnx") == 0
    printed = capsys.readouterr()
    assert "on 24 rows: max relative difference" in printed.out
    assert "exporting the network to ONNX ..." in printed.err
    names = {path.name for path in (tmp_path / "onnx").iterdir()}
    assert names == {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} | (
        {"task.json"}
    )
    predictor = load(finished_run, device="cpu")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    labels = json.loads((tmp_path / "onnx" / "config.json").read_text())["id2label"]
    for row in text_rows(4, seed=8):  # one row each, of different lengths
        batch = predictor.trained_task.collate(
            [predictor.trained_task.encode({"text": row["text"]})]
        )
        inputs = {name: tensor.numpy() for name, tensor in batch["inputs"].items()}
        (logits,) = session.run(["logits"], inputs)
        assert labels[str(np.argmax(logits))] == predictor([row["text"]])[0]["label"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


SMALL = {"fpn_width": 64, "head_convs": 1}
EXPORTED = {
    "timm": Case("timm", "lora", use="classify-image"),
    "vit": Case("vit", "lora", use="classify-image"),
    "fcos": Case("efficientnet", use="detect", keys=SMALL),
    **{name: Case(name, use="detect") for name in MAKERS},
    "unet": Case("timm", use="segment"),
    "unet-tiles": Case("timm", use="segment", keys={"task.tile": 32, "image_size": None}),
    "segformer": Case("segformer", use="segment"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_export_onnx_writes_verified_vision_models(name: str, world: World) -> None:
    run = world.train(EXPORTED[name])
    assert export_onnx(str(run.path), None, None) < 1e-4
    assert (run.path / "onnx" / "model.onnx").is_file()


@pytest.mark.slow
def test_export_onnx_of_a_detector_ranks_candidates_as_predictions(world: World) -> None:
    import onnxruntime

    run = world.train(EXPORTED["fcos"])
    export_onnx(str(run.path), None, None)
    session = onnxruntime.InferenceSession(run.path / "onnx" / "model.onnx")
    task = run.predictor.trained_task
    for path in world.uses["detect"].rows:
        batch = task.collate([task.encode({"image": path})])
        inputs = {name: tensor.numpy() for name, tensor in batch["inputs"].items()}
        boxes, scores = session.run(["boxes", "scores"], inputs)
        index, label = np.unravel_index(scores[0].argmax(), scores[0].shape)
        prediction = run.predict([path])[0][0]
        assert prediction["label"] == task.labels_[label]
        assert prediction["score"] == pytest.approx(scores[0].max(), abs=1e-5)
        x, y = batch["frames"][0, 2:4].tolist()
        inside = np.clip(boxes[0, index] / [x, y, x, y], 0, [*SIZE, *SIZE])
        assert list(prediction["box"].values()) == pytest.approx(inside, abs=1)


def test_row_difference_ignores_the_order_of_items() -> None:
    boxes, scores = torch.rand(20, 4) * 64, torch.rand(20, 3)
    order = torch.randperm(20)
    assert _row_difference([boxes, scores], [boxes[order], scores[order]]) == 0
    assert _row_difference([boxes, scores], [boxes[order], scores]) > TOLERANCE
    assert _row_difference([scores], [scores[order]]) > TOLERANCE, "logits have an order"
    assert _row_difference([boxes, scores], [boxes[:9], scores[:9]]) == float("inf")


def test_export_onnx_reports_why_a_network_cannot_be_exported(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: object, **__: object) -> None:
        raise RuntimeError("step 3 of 3") from ValueError("no operator for aten.x")

    monkeypatch.setattr("torch.onnx.export", export)
    with pytest.raises(ModelError, match="cannot be exported to ONNX: no operator for aten.x"):
        export_onnx(str(finished_run), None, tmp_path / "onnx")


def test_export_command_rejects_a_file_as_output(
    finished_run: Path, held_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", finished_run, "-o", held_csv) == 2
    assert f"-o {held_csv}: cannot be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "origin"),
    [
        ({"source": "NEWS", "test": "HELD"}, "HELD (test)"),
        ({"source": "NEWS", "validation": 0.2, "test": 0.2}, "NEWS (train)"),
        ({"train": "NEWS", "validation": 0.2}, "NEWS (train)"),
    ],
)
def test_rows_of_run_name_their_file_and_split(
    data: dict[str, Any],
    origin: str,
    finished_run: Path,
    tmp_path: Path,
    news_csv: Path,
    held_csv: Path,
) -> None:
    files = {"NEWS": str(news_csv), "HELD": str(held_csv)}
    config = {key: files.get(str(value), value) for key, value in data.items()}
    names = ("task", "model", "method", "optim", "train", "output")
    sections: dict[str, Any] = {name: {} for name in names}
    (tmp_path / "config.yaml").write_text(json.dumps({**sections, "data": config}))
    name, _, role = origin.partition(" ")
    assert _rows_of_run(tmp_path, load_task(finished_run / "final"))[1] == f"{files[name]} {role}"


def test_export_onnx_rejects_different_outputs(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(model: object, task: object, rows: object, path: Path) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr("finetune.export.onnx._write_model", export)
    monkeypatch.setattr("finetune.export.onnx.compare_outputs", lambda *_: [float("inf")])
    with pytest.raises(ModelError, match="max relative difference inf"):
        export_onnx(str(finished_run), None, tmp_path / "onnx")
    assert not (tmp_path / "onnx" / "model.onnx").exists()


def test_export_command_rejects_unsupported_tasks_and_formats(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.text_classification.TextClassification.onnx", None)
    assert command("export", finished_run) == 2
    assert "text-classification does not support ONNX export" in capsys.readouterr().err
    assert command("export", finished_run, "--to", "tflite") == 2
    assert "choose from: onnx" in capsys.readouterr().err
