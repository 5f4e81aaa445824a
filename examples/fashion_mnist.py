"""Convert Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) to an image folder.

    apt install dataset-fashion-mnist           # the Debian package with the data
    python examples/fashion_mnist.py            # writes data/fashion-mnist/{train,test}/<class>/

By default, writes the first 4000 training and the first 2000 test images, in grayscale.

Shapes: N images of 28 x 28 pixels.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path("/usr/share/datasets/fashion-mnist")
FILES = {"train": "train", "test": "t10k"}
CLASSES = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file: 4 bytes (the last is the number of axes), the shape, the data."""
    content = gzip.decompress(path.read_bytes())
    axes = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(axes)


def write_split(source: Path, folder: Path, split: str, count: int) -> int:
    """Write the first `count` images of a split into class folders; return the number written."""
    images = read_idx(source / f"{FILES[split]}-images-idx3-ubyte.gz")  # [N, 28, 28]
    labels = read_idx(source / f"{FILES[split]}-labels-idx1-ubyte.gz")  # [N]
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    written = min(count, len(images))
    for number, (image, label) in enumerate(zip(images[:count], labels[:count], strict=True)):
        Image.fromarray(image).save(folder / split / CLASSES[label] / f"{number:05}.png")
    return written


def main() -> None:
    """Write both splits as image folders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--folder", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    if not options.source.is_dir():
        parser.error(f"{options.source} does not exist; run: apt install dataset-fashion-mnist")
    for split in FILES:
        written = write_split(options.source, options.folder, split, getattr(options, split))
        print(f"{written} images in {options.folder / split}")


if __name__ == "__main__":
    main()
