"""The example scripts that make image datasets."""

from __future__ import annotations

import gzip
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.readers import read_reference

ROOT = Path(__file__).parents[3]


def test_make_shapes_is_a_function_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for name in ("one", "other"):
        words = ["make_shapes.py", "--train", "12", "--test", "6", "--folder", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(ROOT / "examples" / "make_shapes.py"), run_name="__main__")
        files = sorted((tmp_path / name).rglob("*.png"))
        outputs.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 18
    splits = read_reference(str(tmp_path / "one"), DataConfig()).splits
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "test": 6}


def test_fashion_mnist_reads_the_files_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    for split in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + np.array([3, 28, 28], ">u4").tobytes()
        content = gzip.compress(head + pixels.tobytes())
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(content)
        labels = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 3]))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(labels)
    words = ["fashion_mnist.py", "--source", str(tmp_path), "--folder", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, "--train", "2"])
    runpy.run_path(str(ROOT / "examples" / "fashion_mnist.py"), run_name="__main__")
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert [str(path) for path in files] == [
        "test/ankle boot/00000.png",
        "test/dress/00002.png",
        "test/t-shirt/00001.png",
        "train/ankle boot/00000.png",
        "train/t-shirt/00001.png",
    ]
    with Image.open(tmp_path / "out" / files[1]) as image:
        assert np.array_equal(np.asarray(image), pixels[2])
