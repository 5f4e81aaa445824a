"""The files of a confusion matrix and of a scatter plot."""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.classification.label_plots import (
    write_confused_pairs,
    write_confusion,
    write_scatter,
)


def names(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


def matrix_of(classes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5000, (classes, classes))


def test_write_confusion_writes_a_csv_table(tmp_path: Path) -> None:
    matrix = matrix_of(3)
    awkward = ["a,b", 'say "c"', "línea\ndos"]
    table = write_confusion(matrix, awkward, tmp_path)[0]
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == awkward
    assert [row[0] for row in rows] == awkward
    assert [[int(cell) for cell in row[1:]] for row in rows] == matrix.tolist()


@pytest.mark.parametrize("classes", [1, 2, 5, 31, 100])
def test_write_confusion_draws_an_image_of_reasonable_size(classes: int, tmp_path: Path) -> None:
    picture = write_confusion(matrix_of(classes), names(classes), tmp_path)[1]
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert 150 <= min(image.size) <= max(image.size) <= 4000


def test_write_confusion_shortens_long_names(tmp_path: Path) -> None:
    _, picture = write_confusion(matrix_of(2), ["x" * 200, "y" * 200], tmp_path)
    with Image.open(picture) as image:
        assert max(image.size) < 800


def test_write_confusion_draws_dollar_signs_literally(tmp_path: Path) -> None:
    assert len(write_confusion(matrix_of(2), ["under $5", r"$\frac{$"], tmp_path)) == 2


def test_write_confusion_does_not_warn_about_missing_glyphs(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_confusion(matrix_of(2), ["体育", "政治"], tmp_path)


def test_write_confusion_accepts_a_split_without_rows(tmp_path: Path) -> None:
    assert len(write_confusion(np.zeros((2, 2), int), names(2), tmp_path)) == 2


def test_write_confusion_of_many_classes_writes_only_the_table(tmp_path: Path) -> None:
    assert write_confusion(matrix_of(101), names(101), tmp_path) == [tmp_path / "confusion.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.csv"]


def test_write_confusion_does_not_import_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_confusion(matrix_of(2), names(2), tmp_path)


def test_write_scatter_draws_true_against_predicted_numbers(tmp_path: Path) -> None:
    [path] = write_scatter(np.array([1.0, 1.0]), np.array([0.5, 3.0]), tmp_path)
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_confused_pairs_are_those_that_occur(tmp_path: Path) -> None:
    true, predicted = np.array([0, 2, 2, 1, 2]), np.array([0, 1, 1, 1, 2])
    (path,) = write_confused_pairs(true, predicted, ["a", "b", "c, d"], tmp_path)
    assert path.read_text().splitlines() == [
        "true,predicted,rows",
        '"c, d",b,2',
        "a,a,1",
        "b,b,1",
        '"c, d","c, d",1',
    ]
