"""Segmentation: the task contract, views, whole runs, and saved models in smp and transformers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import transformers
from PIL import Image

import finetune
from finetune.errors import DataError, ModelError
from finetune.testing import check_task
from tasks import Segmentation
from tasks.image.joint_augmentation import IGNORE
from tasks.image.preprocessing import INPUT
from tests.support.command_line import finetune as command
from tests.support.lives import Seen, Stop, left_behind, live, load
from tests.support.segmentation_runs import build, train
from tests.support.tiny_scenes import SHAPES, SIZE, save_mask, scene_folder, scene_rows


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("resnet", "unet"),
        ("convnext", "fpn"),
        ("segformer", None),
        pytest.param("upernet", None, marks=pytest.mark.slow),
        pytest.param("efficientnet", "deeplabv3plus", marks=pytest.mark.slow),
        pytest.param("resnet", "upernet", marks=pytest.mark.slow),
        pytest.param("resnet", "segformer", marks=pytest.mark.slow),
    ],
)
def test_segmentation_keeps_the_task_contract(
    name: str, decoder: str | None, segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    task = Segmentation(decoder=decoder, image_size=[32, 48])
    check_task(task, scene_rows(scenes), str(segmentation_networks[name]))


def test_segmentation_with_tiles_and_all_losses_keeps_the_task_contract(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    task = Segmentation(
        tile=32, loss="focal + 0.5 lovasz + cross_entropy", class_weights="balanced"
    )
    check_task(task, scene_rows(scenes), str(segmentation_networks["resnet"]))


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"tile": 64, "overlap": 64}, "smaller than the tile: at most 63"),
        ({"overlap": 8}, "set task.tile"),
        ({"tile": 64, "image_size": 96}, "conflicts with image_size"),
    ],
)
def test_segmentation_config_rejects_conflicting_sizes(keys: dict[str, int], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Segmentation(**keys)


# ---- rows, samples, views


def test_segmentation_pads_a_tile_beyond_the_image_with_ignored_pixels(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    task, _ = build(
        segmentation_networks["resnet"], scenes, tile=64, image_size=None, augmentation="none"
    )
    rows = scene_rows(scenes, 3)
    parts = task.parts(rows)
    assert parts is not None
    assert parts[1] == [{"window": (0, 0, 64, 48)}]
    sample = task.encode(rows[1] | parts[1][0])
    assert sample["inputs"][INPUT].shape == (3, 64, 64)
    assert (sample["target"]["mask"][48:] == IGNORE).all()
    with_rng = task.encode(rows[1] | parts[1][0], np.random.default_rng(0))
    assert torch.equal(with_rng["target"]["mask"], sample["target"]["mask"])


@pytest.mark.parametrize("tiled", [False, True])
def test_segmentation_views_draw_masks_over_images(
    tiled: bool, segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"tile": 32, "image_size": None} if tiled else {"image_size": [64, 96]}
    task, _ = build(segmentation_networks["resnet"], scenes, augmentation="none", **keys)
    window = {"window": (0, 0, 32, 32)} if tiled else {}
    samples = [task.encode({**row, **window}) for row in scene_rows(scenes)]
    sample = next(each for each in samples if each["target"]["mask"].any())
    [picture] = task.views.pictures(task.collate([sample]))
    mask = sample["target"]["mask"].numpy()
    plain = task.preprocessing_.restore(sample["inputs"][INPUT]).permute(1, 2, 0).numpy()
    assert (picture.pixels != plain).any(2)[mask > 0].mean() > 0.9
    assert np.array_equal(picture.pixels[mask == 0], plain[mask == 0])
    assert picture.caption == ", ".join(task.coding_.names[n] for n in np.unique(mask))


@pytest.mark.parametrize("split", ["train", "test"])
def test_segmentation_rejects_a_split_of_ignored_pixels(
    split: str, segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    task, _ = build(segmentation_networks["resnet"], scenes)
    rows = scene_rows(scenes)
    blank = [{**row, "mask": Image.new("L", SIZE, IGNORE)} for row in rows]
    with pytest.raises(
        DataError, match=f"{split}: all pixels of its 6 masks are ignored .255., so"
    ):
        task.views.compare(split, blank)


def test_segmentation_warns_of_one_class_beside_ignored_pixels(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    task, _ = build(segmentation_networks["resnet"], scenes)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:12] = IGNORE
    row = {**scene_rows(scenes)[0], "mask": Image.fromarray(mask)}
    remarks = task.views.compare("test", [row])
    assert remarks[0] == (
        "warning: 25.0% of the pixels of test are ignored (255), and all others are class 0; "
        "should 255 be a class?"
    )
    mask[:30], mask[-1] = IGNORE, 1
    remarks = task.views.compare("test", [{**row, "mask": Image.fromarray(mask)}])
    assert remarks[0] == "warning: 62.5% of the pixels of test are ignored (255)"


def test_train_reports_faulty_masks_before_training(
    segmentation_networks: dict[str, Path], tmp_path: Path
) -> None:
    scenes = scene_folder(tmp_path / "scenes", 8, 4)
    mask = scenes / "train" / "masks" / "00001.png"
    with Image.open(mask) as image:
        image.resize((10, 12)).save(mask)
    (scenes / "train" / "masks" / "00002.png").unlink()
    Image.new("L", SIZE, 99).save(scenes / "test" / "masks" / "00001.png")
    with pytest.raises(DataError) as caught:
        train(segmentation_networks["resnet"], scenes, tmp_path / "run", method="frozen")
    assert "train/images/00001.jpg: mask" in str(caught.value)
    assert "has 10 x 12 pixels, but the image 64 x 48" in str(caught.value)
    assert "train/images/00002.jpg: mask is missing" in str(caught.value)
    keys = {"method": "frozen", "data.on_error": "skip"}
    with pytest.raises(DataError, match="values without a class: 99"):
        train(segmentation_networks["resnet"], scenes, tmp_path / "run", **keys)


# ---- whole runs


@pytest.mark.parametrize(
    ("name", "method"),
    [("efficientnet", "lora"), ("resnet", "full"), ("segformer", "partial")],
)
def test_train_learns_segmentation_and_its_model_predicts(
    name: str, method: str, segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"rank": 2} if method == "lora" else {}
    keys |= {"data.validation": 0, "log_every": 1}
    run = train(
        segmentation_networks[name], scenes, tmp_path / "run", method=method, lr=1e-3, **keys
    )
    losses = [line["loss"] for line in run.folder.history() if line["split"] == "train"]
    assert max(losses[-3:]) < 0.8 * losses[0]
    files = [str(scenes / "test" / "images" / f"{n:05}.jpg") for n in range(3)]
    predictions = finetune.load(run.path, device="cpu")(files)
    for segments in predictions:
        assert {item["label"] for item in segments} <= set(SHAPES)
        masks = [np.asarray(item["mask"]) for item in segments]
        assert all(item["mask"].size == SIZE and item["mask"].mode == "L" for item in segments)
        assert (sum(mask // 255 for mask in masks) == 1).all()  # every pixel has one class


def test_train_on_tiles_evaluates_and_predicts_whole_images(
    segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(
        segmentation_networks["resnet"],
        scenes,
        tmp_path,
        method="frozen",
        tile=32,
        image_size=None,
        epochs=1,
    )
    assert "mean_iou" in run.metrics["test"]
    segments = run.predict([str(scenes / "test" / "images" / "00001.jpg")])[0]
    assert all(item["mask"].size == SIZE for item in segments)


def test_evaluate_leaves_out_a_class_that_a_split_lacks(
    segmentation_networks: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = scene_folder(tmp_path / "scenes", 8, 4)
    star = SHAPES.index("star")
    for path in (scenes / "test" / "masks").iterdir():
        with Image.open(path) as image:
            classes = np.asarray(image)
        save_mask(path, np.where(classes == star, IGNORE, classes))
    run = train(
        segmentation_networks["resnet"], scenes, tmp_path / "run", method="frozen", epochs=1
    )
    assert "test has no pixels of star; these classes are not evaluated" in capsys.readouterr().out
    assert command("evaluate", str(run.path), str(scenes), "split=test") == 0
    assert "test has no pixels of star; these classes are not evaluated" in capsys.readouterr().out
    metrics = run.metrics["test"]
    assert "iou/star" not in metrics
    known = [metrics[f"iou/{name}"] for name in SHAPES if name != "star"]
    assert metrics["mean_iou"] == pytest.approx(np.mean(known))


def test_segmentation_trains_on_cached_features_as_on_computed_ones(
    segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    # SGD, because Adam amplifies rounding errors in gradients near 0 to full steps.
    keys = {"method": "frozen", "epochs": 1, "log_every": 1, "optim.name": "sgd", "lr": 0.01}
    cached = train(segmentation_networks["resnet"], scenes, tmp_path / "cached", **keys)
    alive = train(segmentation_networks["resnet"], scenes, tmp_path / "live", **keys, cache="off")
    history = cached.folder.history()
    for ours, theirs in zip(history, alive.folder.history(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert history[-1]["loss"] < 0.95 * history[1]["loss"]
    with pytest.raises(ModelError, match="method.cache_gib: the features would take"):
        train(
            segmentation_networks["resnet"],
            scenes,
            tmp_path / "x",
            **keys,
            cache_gib=1e-4,
            image_size=64,
        )


def test_saved_smp_model_loads_with_smp(
    segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys = {"method": "lora", "rank": 2, "image_size": [32, 64], "epochs": 1}
    run = train(segmentation_networks["resnet"], scenes, tmp_path / "run", **keys)
    model = smp.from_pretrained(str(run.path / "final")).eval()
    predictor = finetune.load(run.path, device="cpu")
    task = predictor.trained_task
    batch = task.collate([task.encode({"image": str(scenes / "test/images/00002.jpg")})])
    with torch.inference_mode():
        theirs = model(batch["inputs"][INPUT])
        torch.testing.assert_close(theirs, predictor.model(batch))


def test_saved_segformer_works_in_the_transformers_pipeline(
    segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(
        segmentation_networks["segformer"], scenes, tmp_path / "run", method="full", lr=2e-3
    )
    file = str(scenes / "test" / "images" / "00002.jpg")
    final = str(run.path / "final")
    pipeline = transformers.pipeline("image-segmentation", final, device="cpu")
    theirs = {one["label"]: np.asarray(one["mask"]) for one in pipeline(file)}
    ours = {one["label"]: np.asarray(one["mask"]) for one in run.predict([file])[0]}
    same = sum((theirs[label] == ours[label]).mean() for label in ours if label in theirs)
    assert same / len(ours) > 0.97  # the pipeline resizes images with another library


def test_predict_command_draws_masks_and_overlays(
    segmentation_networks: dict[str, Path],
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(
        segmentation_networks["resnet"], scenes, tmp_path / "run", method="frozen", epochs=1
    )
    capsys.readouterr()
    folder = tmp_path / "run" / "reports" / "test"
    with Image.open(folder / "contact-sheet.jpg") as sheet:
        assert sheet.size[0] > 2 * 3 * 224  # two columns of image, true and predicted mask
        assert sheet.size[1] > 6 * 149
    with (folder / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["row", "true", "predicted", "iou", "image", "file"]
    assert [float(line["iou"]) for line in lines] == sorted(float(line["iou"]) for line in lines)
    assert sorted(int(line["row"]) for line in lines) == list(range(1, 13))
    photos, out = str(scenes / "test" / "images"), tmp_path / "drawn"
    assert command("predict", str(run.path), photos, "--draw", str(out), "limit=3") == 0
    assert capsys.readouterr().out == ""
    masks = sorted(out.glob("*-mask.png"))
    assert len(masks) == len(sorted(out.glob("*-overlay.png"))) == 3
    with Image.open(masks[0]) as mask:
        assert mask.mode == "P"
        assert mask.size == SIZE
    assert "circle" in (out / "legend.tsv").read_text()
    first = sorted((scenes / "test" / "images").iterdir())[0]
    drawn = run.draw([str(first)], tmp_path / "again")
    assert {path.name for path in drawn} >= {f"{first.stem}-mask.png", f"{first.stem}-overlay.png"}
    assert all(path.is_file() for path in drawn)
    table = tmp_path / "predictions.jsonl"
    assert command("predict", str(run.path), photos, "-o", str(table), "limit=2") == 0
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert {"label", "score", "mask"} == rows[0]["predicted_segments"][0].keys()
    assert command("evaluate", str(run.path), str(scenes), "split=test") == 0


@pytest.mark.parametrize(
    ("method", "workers"),
    [
        ("full", 0),
        pytest.param("full", 2, marks=pytest.mark.slow),
        pytest.param("frozen-views", 0, marks=pytest.mark.slow),
        pytest.param("lora", 0, marks=pytest.mark.slow),
    ],
)
def test_segmentation_run_resumes_bitwise_equal(
    method: str, workers: int, segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {
        "full": {"method": "full"},
        "lora": {"method": "lora", "method.rank": 2},
        "frozen-views": {"method": "frozen", "method.views": 2},
    }[method]
    keys |= {"task": "segmentation", "task.augmentation": "heavy", "task.image_size": 32}
    keys |= {"train.workers": workers}
    once, often = Seen(), Seen()
    unstopped = live(
        load(tmp_path / "once", segmentation_networks["resnet"], scenes, keys), seen=once
    )
    loaded = load(tmp_path / "often", segmentation_networks["resnet"], scenes, keys)
    for stop in (Stop(1), Stop(3, "evaluate"), Stop(5)):
        assert live(loaded, seen=often, stop=stop) is None, stop
    stopped = live(loaded, seen=often)
    assert unstopped is not None
    assert stopped is not None
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)
