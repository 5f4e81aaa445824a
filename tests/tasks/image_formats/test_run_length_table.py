"""Tables with a column EncodedPixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import ImageClassification, Segmentation
from tests.support.annotated_sets import (
    BOX,
    MASK,
    SIZE,
    read_classes,
    refusal,
    save_pictures,
    write_text,
)

LEFT, TOP, RIGHT, BOTTOM = BOX
RUNS = " ".join(f"{x * SIZE[1] + TOP + 1} {BOTTOM - TOP}" for x in range(LEFT, RIGHT))
EMPTY = np.zeros_like(MASK).tolist()


def write_table(root: Path, table: str) -> Path:
    save_pictures(root / "train_images", ["a.jpg", "b.jpg"])
    write_text(root / "sample_submission.csv", table)
    write_text(root / "train.csv", table)
    return root


@pytest.mark.parametrize(
    "table",
    [
        f"ImageId,EncodedPixels\na.jpg,{RUNS}\nb.jpg,\n",
        f"ImageId,EncodedPixels\na,{RUNS}\nb,-1\n",
        f"ImageId,ClassId,EncodedPixels\na.jpg,3,{RUNS}\nb.jpg,3,\n",
        f"ImageId_ClassId,EncodedPixels\na.jpg_1,\na.jpg_2,{RUNS}\nb.jpg_1,\nb.jpg_2,\n",
        f"Image_Label,EncodedPixels\na.jpg_Fish,{RUNS}\nb.jpg_Fish,\n",
    ],
)
def test_run_length_tables_are_read_down_the_columns(table: str, tmp_path: Path) -> None:
    masks, notes = read_classes(write_table(tmp_path, table))
    assert masks == [MASK.tolist(), EMPTY]
    assert any("pixels are counted down the columns from 1" in note for note in notes)


def test_run_length_tables_along_the_rows_are_recognized(tmp_path: Path) -> None:
    runs = " ".join(f"{y * SIZE[0] + LEFT + 1} {RIGHT - LEFT}" for y in range(TOP, BOTTOM))
    write_table(tmp_path, f"ImageId,EncodedPixels\na.jpg,{runs}\nb.jpg,\n")
    masks, notes = read_classes(tmp_path)
    assert masks == [MASK.tolist(), EMPTY]
    assert any("counted along the rows from 1" in note for note in notes)


def test_run_length_tables_join_the_lines_of_an_image(tmp_path: Path) -> None:
    halves = RUNS.split()
    lines = "".join(f"a.jpg,{' '.join(some)}\n" for some in (halves[:14], halves[14:]))
    write_table(tmp_path, f"ImageId,EncodedPixels\n{lines}b.jpg,\n")
    assert read_classes(tmp_path)[0] == [MASK.tolist(), EMPTY]


@pytest.mark.parametrize(
    ("runs", "fault"),
    [
        ("9 4 2 5", "does not ascend: starts may be relative"),
        ("1 2 3", "has 3 numbers, not pairs"),
        ("6900 500", "reaches pixel 7399, but the image has 96 x 72 pixels"),
        ("1 x", "is not a list of whole numbers"),
    ],
)
def test_run_length_tables_report_faults_by_line(runs: str, fault: str, tmp_path: Path) -> None:
    write_table(tmp_path, f"ImageId,EncodedPixels\na.jpg,{RUNS}\nb.jpg,{runs}\n")
    message = refusal(tmp_path, Segmentation())
    assert "train.csv:3: " in message
    assert fault in message


def test_image_classification_refuses_run_length_tables(tmp_path: Path) -> None:
    write_table(tmp_path, f"ImageId,EncodedPixels\na.jpg,{RUNS}\nb.jpg,\n")
    assert "task=segmentation learns them" in refusal(tmp_path, ImageClassification())
