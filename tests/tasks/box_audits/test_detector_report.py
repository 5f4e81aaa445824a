"""The report of a detector: its sections, links that find their images, images without objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.audit.report_run import write_report
from finetune.audit.sections import Link, Table
from finetune.data.source import Source
from finetune.errors import DataError
from finetune.reporting.console import Console
from tasks.box_audits.box_outcomes import box_outcomes
from tasks.box_audits.error_sections import error_section
from tasks.box_audits.judged_boxes import judge_boxes
from tasks.box_audits.precision_sections import box_class_section, confidence_section, size_section
from tasks.box_audits.worst_pictures import kind_colors, picture_errors
from tasks.detection.detection_metrics import measure_precision, summarize_boxes
from tests.support.detection_runs import train
from tests.support.judged_scenes import box_stats, random_stats

NAMES = ["cat", "dog", "<emu>", "never seen"]
QUIET = Console(enabled=False)


def table_of(section: Any, title: str) -> Table:
    return next(b for b in section.blocks if isinstance(b, Table) and b.title == title)


def test_error_section_links_find_as_many_images_as_have_the_error() -> None:
    stats = random_stats(3)
    judged, outcomes = judge_boxes(stats), box_outcomes(stats, NAMES, 0.5)
    section = error_section(judged, NAMES, 0.5, 0.4)
    links = [
        cell
        for block in section.blocks
        if isinstance(block, Table)
        for line in block.rows
        for cell in line
        if isinstance(cell, Link)
    ]
    assert len(links) > 20
    for link in links:
        [(column, value)] = link.where.items()
        images = [o for o in outcomes if value in {**o.columns, **o.unlisted}[column]]
        assert 0 < len(images) <= int(link.text)
    by_class = {line[0]: line for line in table_of(section, "By class").rows}
    assert sum(line[1] for line in by_class.values()) == len(judged.true_labels)
    assert by_class["never seen"][1:] == [0] * 8
    confusions = table_of(section, "Most frequent confusions").rows
    kinds = {line[0]: line[1] for line in table_of(section, "").rows}
    assert sum(int(line[2].text) for line in confusions) == int(kinds["classification"].text)


def test_error_section_of_images_without_objects_counts_what_is_detected() -> None:
    stats = box_stats([((10, 10, 60, 60), 1, 0.9)], [])
    section = error_section(judge_boxes(stats), NAMES, 0.5, None)
    kinds = {line[0]: line[1] for line in table_of(section, "").rows}
    assert kinds["background"] == Link("1", {"kinds": "background"})
    assert kinds["missed"] == 0
    assert section.finding == ""
    assert "0 of 1 are correct, which finds 0 of 0 objects" in section.blocks[0].text


def test_precision_sections_have_the_numbers_of_the_metrics() -> None:
    stats = random_stats(4)
    judged, metrics = judge_boxes(stats), summarize_boxes(stats, NAMES)
    precision, recall = (each[..., -1] for each in measure_precision(stats, len(NAMES), 100))
    by_class = box_class_section(judged, precision, NAMES, {})
    lines = table_of(by_class, "").rows
    assert {line[0]: line[2] for line in lines} == {
        name: f"{metrics[f'ap/{name}']:.4f}" for name in NAMES[:3]
    }
    sizes = size_section(judged, precision, recall, 0.5, {})
    rows = {line[0].partition(" ")[0]: line for line in table_of(sizes, "").rows}
    assert {size: line[3] for size, line in rows.items()} == {
        size: f"{metrics[f'ap_{size}']:.4f}" for size in rows
    }
    assert f"AP is {metrics['ap50']:.3f} at an IoU of 0.5" in sizes.finding
    confidence = confidence_section(judged, 0.5)
    used, best = table_of(confidence, "").rows
    assert float(best[4]) >= float(used[4])
    json.dumps([b.spec for s in (by_class, sizes) for b in s.blocks if hasattr(b, "spec")])


def test_picture_errors_colors_boxes_by_kind() -> None:
    square, far = (10, 10, 60, 60), (100, 60, 140, 100)
    stats = box_stats([(square, 1, 0.9)], [(square, 0), (far, 0)])
    image = Image.new("RGB", (160, 120))
    picture = picture_errors(image, stats, NAMES, 0.5)
    height, width, _ = picture.pixels.shape
    assert width == 480
    assert height > 360  # a legend below
    shown = {tuple(color) for color in picture.pixels.reshape(-1, 3).tolist()}
    colors = kind_colors()
    assert {colors["classification"], colors["missed"]} <= shown
    assert colors["background"] not in shown


@pytest.mark.slow
def test_report_of_a_detector_has_its_sections(
    detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(detection_networks["fcos"], scenes, tmp_path / "run", method="full")
    page = run.report()
    text = page.path.read_text(encoding="utf-8")
    for key in ("errors", "classes", "confidence", "sizes", "labels", "worst", "duplicates"):
        assert f'<section id="{key}">' in text
    assert "Kinds of errors" in page.findings
    figures = {path.name for path in (page.path.parent / "figures").iterdir()}
    assert {"error-gains.png", "precision-recall.png", "worst-1.png"} <= figures
    assert len(text) < 3_000_000

    # Images that hold nothing: no precision, but what is detected there is false.
    pixels = np.zeros((48, 64, 3), np.uint8)
    rows = [{"image": pixels.tolist(), "objects": []} for _ in range(3)]
    empty = write_report(str(run.path), Source(rows), tmp_path / "empty", QUIET)
    assert empty is not None
    text = empty.path.read_text(encoding="utf-8")
    assert "No image has an object" in text
    with pytest.raises(DataError, match="circle"):
        other = [
            {"image": pixels.tolist(), "objects": [{"bbox": [30, 30, 60, 45], "category": "cow"}]}
        ]
        write_report(str(run.path), Source(other), tmp_path / "other", QUIET)
    with pytest.raises(DataError, match="needs labeled rows"):
        bare = [{"image": pixels.tolist()}]
        write_report(str(run.path), Source(bare), tmp_path / "bare", QUIET)
