"""Predicted masks in a report: classes, confusions of pixels, the worst pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from finetune.audit.sections import Block, Chart, Link, Matrix, Note, Table
from finetune.reports.intervals import Estimate
from tasks.audits.mask_sections import class_section, pixel_confusion_section
from tasks.image.joint_augmentation import IGNORE
from tasks.masks.mask_losses import MOST_PAIRS, count_areas, count_confusions
from tasks.masks.segments import draw_mistakes
from tests.support.report_pages import read_page
from tests.support.segmentation_runs import train
from tests.support.tiny_scenes import SHAPES

NAMES = ["ground", "car", "tree", "sign"]  # no sign is true


def measured() -> tuple[Any, Any, list[Any]]:
    """Return areas and confusions of three images, and their masks (true, predicted)."""
    true = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]], [[0, 2, 2, IGNORE]]])
    predicted = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 3]], [[0, 1, 2, 2]]])
    pairs = list(zip(predicted, true, strict=True))
    areas = torch.stack([count_areas(*pair, 4) for pair in pairs])
    confusions = pad_sequence([count_confusions(*pair, 4) for pair in pairs], True)
    return areas.numpy(), confusions.numpy(), pairs


def blocks_of(blocks: Any, kind: type[Block]) -> list[Any]:
    return [block for block in blocks if isinstance(block, kind)]


def test_confusions_count_each_wrong_pixel_once() -> None:
    areas, confusions, pairs = measured()
    assert confusions.tolist() == [[[0, 1, 1]], [[0, 3, 1]], [[2, 1, 1]]]
    assert (areas[:, :, 2] - areas[:, :, 0]).sum() == confusions[:, :, 2].sum()
    right = count_confusions(pairs[0][1], pairs[0][1], 4)
    assert right.shape == (0, 3)
    many = torch.arange(1600).view(1, -1) % 40
    assert len(count_confusions((many + many.flip(1)) % 40, many, 40)) <= MOST_PAIRS


def test_classes_are_listed_by_iou_with_those_that_no_mask_has() -> None:
    areas, _, _ = measured()
    intervals = {"iou/tree": Estimate(0.5, 0.25, 0.75)}
    section = class_section(areas, NAMES, intervals, [7, 8, 9])
    [table] = blocks_of(section.blocks, Table)
    assert [line[0].text for line in table.rows] == ["car", "tree", "ground"]
    assert table.rows[0][0] == Link("car", {"true": "car"})
    assert table.rows[1][1] == intervals["iou/tree"]
    assert table.rows[2][1:] == ["0.7143", "1.0000", "0.7143", "63.64%", 3]
    assert blocks_of(section.blocks, Note)[0].text.endswith("sign (1).")
    assert section.finding == "'car' has the lowest IoU, 0.5000, in 1 image"
    [chart] = blocks_of(section.blocks, Chart)
    points = chart.spec["data"]["values"]
    assert {(point["row"], point["class"]) for point in points} == {
        (7, "ground"), (7, "car"), (8, "ground"), (9, "ground"), (9, "tree")
    }  # fmt: skip
    assert [p["IoU"] for p in points if p["class"] == "tree"] == [0.5]


def test_pixel_confusions_name_the_most_frequent_pair() -> None:
    areas, confusions, _ = measured()
    section = pixel_confusion_section(areas, confusions, NAMES)
    [matrix] = blocks_of(section.blocks, Matrix)
    assert matrix.counts == [[5, 1, 0, 1], [0, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert matrix.text(0, 0) == "71%"
    [table] = blocks_of(section.blocks, Table)
    assert table.rows[0][:4] == ["ground", "car", "33.3%", "14.3%"]
    assert table.rows[0][4] == Link("1", {"true": "ground", "predicted": "car"})
    assert section.finding.startswith("27.3% of the pixels are wrong; most often 'ground' is taken")
    assert table.note == ""
    cut = pixel_confusion_section(areas, confusions[:2], NAMES)  # as if a rare pair was left out
    assert blocks_of(cut.blocks, Table)[0].note.startswith("9.09% of the pixels, of rare pairs")


def test_pixel_confusions_of_a_perfect_model() -> None:
    areas = np.array([[[4, 4, 4], [2, 2, 2]]])
    section = pixel_confusion_section(areas, np.zeros((1, 0, 3), np.int64), NAMES[:2])
    assert section.blocks[-1] == Note("No pixel is wrong.")
    assert section.finding == ""


def test_mistakes_are_orange_where_pixels_are_wrong() -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    truth[:, 50:] = IGNORE
    image = Image.new("RGB", (60, 40), (120, 120, 120))
    pictures, share = draw_mistakes(image, truth, {"segments": []}, NAMES[:2])
    assert share == 0.4  # 20 of 50 columns that count
    assert [picture.caption for picture in pictures] == [
        "image", "true", "predicted", "wrong pixels"
    ]  # fmt: skip
    wrong = pictures[3].pixels.astype(int)
    is_orange = wrong[..., 0] - wrong[..., 2] > 100
    assert is_orange[:, 30:50].all()
    assert not is_orange[:, :30].any()
    assert not is_orange[:, 50:].any()
    large = draw_mistakes(image.resize((6000, 400)), np.ones((400, 6000), np.uint8),
                          {"segments": []}, NAMES[:2])[0]  # fmt: skip
    assert max(large[0].pixels.shape) < 400


@pytest.mark.slow
def test_report_of_masks_shows_classes_confusions_and_pictures(
    segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(segmentation_networks["resnet"], scenes, tmp_path / "run", max_steps=2)
    report = run.report()
    sections, data = read_page(report.path)
    assert list(sections) == [
        "metrics", "curves", "classes", "confusions", "worst", "duplicates", "rows"
    ]  # fmt: skip
    assert "mean_iou" in sections["metrics"]
    assert "iou/" not in sections["metrics"]
    for shape in SHAPES:
        assert shape in sections["classes"]
    assert "wrong pixels" in sections["worst"]
    assert data["charts"]["iou-by-size"]["links"] == {"row": "row"}
    figures = {path.name for path in (report.path.parent / "figures").iterdir()}
    assert {"pixel-confusions.png", "iou-by-size.png", "worst-1.png"} <= figures
    assert report.path.stat().st_size < 3_000_000
