"""Image classification, from images to a final model that timm and transformers load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import transformers
from PIL import Image

import finetune
from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import DataError
from finetune.testing import check_task
from tasks import ImageClassification
from tasks.image.preprocessing import INPUT
from tests.support.image_classifiers import NETWORKS, train_classifier
from tests.support.tiny_vision import SHAPES, shape_folder, shape_rows


@pytest.mark.parametrize("name", NETWORKS)
def test_image_classification_passes_check_task(
    name: str, vision_networks: dict[str, Path]
) -> None:
    check_task(ImageClassification(), shape_rows(), str(vision_networks[name]))


@pytest.mark.parametrize("kind", ["several", "number"])
def test_image_classification_passes_check_task_for_other_kinds(
    kind: str, vision_networks: dict[str, Path]
) -> None:
    rows = shape_rows()
    for index, row in enumerate(rows):
        several = ["big", row["label"]][index % 2 :]
        row["label"] = float(index) + 0.5 if kind == "number" else several
    check_task(ImageClassification(augmentation="none"), rows, str(vision_networks["resnet"]))


def test_image_classification_reads_columns_of_zeros_and_ones(
    vision_networks: dict[str, Path],
) -> None:
    rows = [
        {"image": row["image"], **{s: int(s == row["label"]) for s in SHAPES}}
        for row in shape_rows()
    ]
    task = ImageClassification(augmentation="none")
    assert task.rows.resolve({name: [row[name] for row in rows] for name in rows[0]}).keys == {
        "image": "image",
        "label": list(SHAPES),
        "kind": "several",
    }
    check_task(task, rows, str(vision_networks["resnet"]))


@pytest.mark.parametrize(
    ("name", "method"),
    [("resnet", "frozen"), ("efficientnet", "lora"), ("resnet", "full"), ("vit", "partial")],
)
def test_image_classification_trains_saves_and_predicts(
    name: str, method: str, vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    keys = {"method": method, "epochs": 3}
    run = train_classifier(vision_networks[name], shape_images, tmp_path / "run", **keys)
    metrics = run.metrics["validation"]
    assert {"accuracy", "f1_macro", "roc_auc"} <= metrics.keys()
    history = [line for line in run.folder.history() if line["split"] == "validation"]
    assert history[-1]["loss"] < history[0]["loss"]
    files = sorted(str(path) for path in shape_images.rglob("*.png"))[:4]
    predictions = finetune.load(run.path)(files)
    assert all(set(one) == {"label", "score"} and one["label"] in SHAPES for one in predictions)
    first = predictions[0]
    alone = finetune.load(run.path)(Image.open(files[0]))[0]  # the batch size affects rounding
    assert alone == {"label": first["label"], "score": pytest.approx(first["score"], abs=1e-5)}


def test_final_model_loads_with_plain_timm(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    keys = {"method": "full", "image_size": 40}
    run = train_classifier(vision_networks["resnet"], shape_images, tmp_path / "run", **keys)
    final = run.path / "final"
    model = timm.create_model(f"local-dir:{final}", pretrained=True).eval()
    names = json.loads((final / "config.json").read_text())["label_names"]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    file = next(iter(sorted(shape_images.rglob("*.png"))))
    with Image.open(file) as image, torch.inference_mode():
        scores = model(transform(image)[None]).softmax(1)[0]
    ours = finetune.load(run.path)([str(file)])[0]
    assert names == list(SHAPES)
    assert ours["label"] == names[int(scores.argmax())]
    with Image.open(file) as image:
        pixels = run.predictor.trained_task.encode({"image": file})["inputs"][INPUT]
        torch.testing.assert_close(pixels, transform(image), rtol=0, atol=1e-6)
    assert ours["score"] == pytest.approx(float(scores.max()), abs=1e-6)
    # The transformers pipeline resizes with torchvision, which rounds some pixels differently.
    theirs = transformers.pipeline("image-classification", str(final), device="cpu")(str(file))[0]
    assert theirs["label"] == ours["label"]
    assert theirs["score"] == pytest.approx(ours["score"], abs=0.02)


def test_final_model_works_in_a_transformers_pipeline(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    keys = {"method": "lora", "rank": 4}
    run = train_classifier(vision_networks["vit"], shape_images, tmp_path / "run", **keys)
    final = str(run.path / "final")
    file = str(next(iter(sorted(shape_images.rglob("*.png")))))
    theirs = transformers.pipeline("image-classification", final, device="cpu")(file)
    ours = finetune.load(run.path, device="cpu")([file])[0]
    assert theirs[0]["label"] == ours["label"]
    assert theirs[0]["score"] == pytest.approx(ours["score"], abs=1e-4)
    adapter = run.path / "final" / "adapter" / "adapter_model.safetensors"
    assert adapter.is_file()


def test_top5_accuracy_is_computed_for_more_than_five_classes(
    vision_networks: dict[str, Path],
) -> None:
    rows = shape_rows(24)
    for index, row in enumerate(rows):
        row["label"] = f"class {index % 6}"
    task = ImageClassification()
    check_task(task, rows, str(vision_networks["resnet"]))
    scores = torch.eye(6) - torch.eye(6).roll(1, 0)  # the preceding class is the least likely
    stats = {"scores": scores, "target": torch.tensor([0, 1, 2, 5, 0, 5])}
    expected = 1 - sum(scores[n, t] == -1 for n, t in enumerate(stats["target"])) / 6
    assert task.summarize(stats)["top5_accuracy"] == pytest.approx(float(expected))


def test_on_error_lists_or_skips_corrupt_images(
    vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    data = shape_folder(tmp_path / "shapes", 30)
    (data / "circle" / "bad.jpg").write_bytes(b"not an image")
    whole = (data / "square" / "002.png").read_bytes()
    (data / "square" / "truncated.png").write_bytes(whole[:100])
    with pytest.raises(DataError) as caught:
        train_classifier(vision_networks["resnet"], data, tmp_path / "run", method="frozen")
    assert "circle/bad.jpg: image is not in a supported image format" in str(caught.value)
    assert "square/truncated.png: image is corrupt" in str(caught.value)
    section = {"source": str(data), "on_error": "skip"}
    run = train_classifier(vision_networks["resnet"], section, tmp_path / "run", method="frozen")
    assert run.metrics


def test_identity_is_equal_for_identical_images(tmp_path: Path) -> None:
    data = shape_folder(tmp_path / "shapes", 6)
    copy = data / "circle" / "copy.png"
    copy.write_bytes((data / "circle" / "000.png").read_bytes())
    task = ImageClassification()
    one, other = ({"image": str(data / "circle" / name)} for name in ("000.png", "copy.png"))
    assert task.rows.identity(one) == task.rows.identity(other)
    assert task.rows.identity(one) != task.rows.identity(
        {"image": str(data / "circle" / "003.png")}
    )


def test_images_of_another_column_are_predicted_by_key(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    lines = [f"{path.stem},{path.parent.name}" for path in sorted(shape_images.rglob("*.png"))]
    (tmp_path / "train.csv").write_text("\n".join(["id,label", *lines[::4]]) + "\n")
    section = {"source": str(tmp_path / "train.csv"), "images": str(shape_images)}
    run = train_classifier(vision_networks["resnet"], section, tmp_path / "run", method="frozen")
    file = next(iter(sorted(shape_images.rglob("*.png"))))
    with pytest.raises(DataError, match=r"no column 'id'.*name another with task\.image=COLUMN"):
        finetune.load(run.path)([{"image": str(file)}])
    (prediction,) = finetune.load(run.path, image="image")([{"image": str(file)}])
    assert prediction["label"] in SHAPES


def test_image_classification_rejects_a_folder_of_images_without_classes(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"cat.{number}.png")
    with pytest.raises(
        DataError, match=r"the images have no labels \(such as 'cat.0.png'.*data.map"
    ):
        open_splits(DataConfig(source=str(tmp_path)), ImageClassification())
