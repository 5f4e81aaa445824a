"""A network as ONNX says what PyTorch says, for any number of rows of any length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import ModelError
from finetune.export.onnx import TOLERANCE, _difference, _rows_of_run, export_onnx
from finetune.inference.model_loading import load_task
from finetune.inference.predictor import load
from tests.support.command_line import finetune as command
from tests.support.strangers import Case, World
from tests.support.tiny_detectors import MAKERS
from tests.support.tiny_models import text_rows
from tests.support.tiny_scenes import SIZE

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
    "unet-tiles": Case("timm", use="segment", keys={"task.tile": 32, "task.image_size": None}),
    "segformer": Case("segformer", use="segment"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_networks_of_pictures_are_exported_and_compared(name: str, world: World) -> None:
    run = world.train(EXPORTED[name])
    assert export_onnx(str(run.path), None, None) < 1e-4
    assert (run.path / "onnx" / "model.onnx").is_file()


@pytest.mark.slow
def test_best_candidate_of_a_detector_is_the_first_prediction(world: World) -> None:
    import onnxruntime

    run = world.train(EXPORTED["fcos"])
    export_onnx(str(run.path), None, None)
    session = onnxruntime.InferenceSession(run.path / "onnx" / "model.onnx")
    task = run.predictor.adapter
    for path in world.uses["detect"].rows:
        batch = task.collate([task.encode({"image": path})])
        given = {name: tensor.numpy() for name, tensor in batch["inputs"].items()}
        boxes, scores = session.run(["boxes", "scores"], given)
        place, label = np.unravel_index(scores[0].argmax(), scores[0].shape)
        said = run.predict([path])[0][0]
        assert said["label"] == task.labels_[label]
        assert said["score"] == pytest.approx(scores[0].max(), abs=1e-5)
        x, y = batch["frames"][0, 2:4].tolist()
        inside = np.clip(boxes[0, place] / [x, y, x, y], 0, [*SIZE, *SIZE])
        assert list(said["box"].values()) == pytest.approx(inside, abs=1)


def test_items_in_another_order_are_the_same_and_others_are_not() -> None:
    boxes, scores = torch.rand(20, 4) * 64, torch.rand(20, 3)
    order = torch.randperm(20)
    assert _difference([boxes, scores], [boxes[order], scores[order]]) == 0
    assert _difference([boxes, scores], [boxes[order], scores]) > TOLERANCE
    assert _difference([scores], [scores[order]]) > TOLERANCE, "logits have an order"
    assert _difference([boxes, scores], [boxes[:9], scores[:9]]) == float("inf")


def test_network_that_cannot_be_exported_says_why(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: object, **__: object) -> None:
        raise RuntimeError("step 3 of 3") from ValueError("no operator for aten.x")

    monkeypatch.setattr("torch.onnx.export", export)
    with pytest.raises(ModelError, match="cannot be written as ONNX: no operator for aten.x"):
        export_onnx(str(finished_run), None, tmp_path / "onnx")


def test_export_into_a_file_is_refused(
    finished_run: Path, held_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", finished_run, "-o", held_csv) == 2
    assert f"-o {held_csv}: is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"source": "NEWS", "test": "HELD"}, "HELD (test)"),
        ({"source": "NEWS", "validation": 0.2, "test": 0.2}, "NEWS (train)"),
        ({"train": "NEWS", "validation": 0.2}, "NEWS (train)"),
    ],
)
def test_rows_are_named_by_the_file_that_holds_them(
    data: dict[str, Any],
    place: str,
    finished_run: Path,
    tmp_path: Path,
    news_csv: Path,
    held_csv: Path,
) -> None:
    files = {"NEWS": str(news_csv), "HELD": str(held_csv)}
    held = {key: files.get(str(value), value) for key, value in data.items()}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": held}))
    name, _, role = place.partition(" ")
    assert _rows_of_run(tmp_path, load_task(finished_run / "final"))[1] == f"{files[name]} {role}"


def test_outputs_that_differ_are_refused(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(model: object, task: object, rows: object, path: Path) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr("finetune.export.onnx._export", export)
    monkeypatch.setattr("finetune.export.onnx.compare_outputs", lambda *_: [float("inf")])
    with pytest.raises(ModelError, match="differ by inf"):
        export_onnx(str(finished_run), None, tmp_path / "onnx")
    assert not (tmp_path / "onnx" / "model.onnx").exists()


def test_task_that_cannot_be_exported_says_so(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.text_classification.TextClassification.onnx", None)
    assert command("export", finished_run) == 2
    assert "text-classification cannot be written as ONNX" in capsys.readouterr().err
    assert command("export", finished_run, "--to", "tflite") == 2
    assert "choose from: onnx" in capsys.readouterr().err
