"""Views of masked image modeling: what the network reads, and reconstructions beside the images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from finetune.model import Batch, TransferModel
from finetune.task_parts.samples import Prediction, Row, Sample, Stats
from finetune.task_parts.views import REPOSITORY, CardFacts, NamedRow, Outcome, Picture, Views
from tasks.image.picture_rows import as_rgb, describe_pixels
from tasks.image.sheets import make_sheet, shrink, side_by_side
from tasks.pretraining.pixel_models import READ

if TYPE_CHECKING:
    from tasks.masked_image_modeling import MaskedImageModeling

TIMM_CODE = """
import timm

backbone = timm.create_model("hf-hub:{repository}", pretrained=True, num_classes=0).eval()
"""
CODE = """
from transformers import AutoModel

backbone = AutoModel.from_pretrained("{repository}").eval()
"""


class MaskedImageViews(Views):
    """Views of masked image modeling."""

    illustrated = 12

    def __init__(self, task: MaskedImageModeling) -> None:
        self.task = task

    def show(self, sample: Sample) -> str:
        return describe_pixels(sample["inputs"][READ])

    def pictures(self, batch: Batch) -> list[Picture]:
        images = batch["inputs"][READ].cpu()
        return [Picture("", as_rgb(self._pixels(image))) for image in images]

    def metric_names(self) -> list[str]:
        return ["rmse", "mae", "r2"]

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        """Return the error of each reconstruction, in pixel values of 0 to 1."""
        errors = (stats["squared"] / stats["values"]).sqrt().tolist()
        return [Outcome({"rmse": error}, error) for error in errors]

    def illustrate(
        self,
        rows: Sequence[NamedRow],
        stats: Stats,
        predict: Callable[[], Sequence[Prediction]],
        folder: Path,
    ) -> list[Path]:
        """Draw a sheet of images, what the network read of them, and their reconstructions."""
        triples = [
            side_by_side(self._panels(row, prediction), name)
            for (name, row, _), prediction in zip(rows, predict(), strict=True)
        ]
        path = folder / "reconstructions.jpg"
        make_sheet(triples).save(path)
        return [path]

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        path = folder / f"{name}.png"
        side_by_side(self._panels(row, prediction)).save(path)
        return [path]

    def _panels(self, row: Row, prediction: Prediction) -> list[tuple[str, Image.Image]]:
        sample = self.task.encode(row)
        images = {
            "image": self._picture(sample["target"]),
            "read": self._picture(sample["inputs"][READ]),
            "reconstruction": decode_picture(prediction["reconstruction"]),
        }
        return [(title, shrink(image)[0]) for title, image in images.items()]

    def present(self, prediction: Prediction) -> Any:
        return {**prediction, "reconstruction": decode_picture(prediction["reconstruction"])}

    def card(self, model: TransferModel) -> CardFacts:
        is_timm = self.task.processor_ is None
        code = (TIMM_CODE if is_timm else CODE).format(repository=REPOSITORY)
        library = "timm" if is_timm else "transformers"
        return CardFacts("image-feature-extraction", library, code.strip() + "\n")

    def _pixels(self, image: Tensor) -> Any:
        return self.task.preprocessing_.restore(image).permute(1, 2, 0).numpy()

    def _picture(self, image: Tensor) -> Image.Image:
        return Image.fromarray(as_rgb(self._pixels(image)))

    def encode_picture(self, image: Tensor) -> str:
        """Return normalized pixels [C, H, W] as a PNG in base64."""
        buffer = io.BytesIO()
        self._picture(image).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()


def decode_picture(text: str) -> Image.Image:
    """Return the image of a PNG in base64."""
    image: Image.Image = Image.open(io.BytesIO(base64.b64decode(text)))
    return image.convert("RGB")
