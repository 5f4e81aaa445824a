"""How a published segmentation model is used without this kit: the code on its card.

Each piece defines `segment`: the path of a picture -> a mask of class numbers [H, W], or what the
pipeline says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.task_parts import BASE, REPOSITORY
from tasks.image.preprocessing import Preprocessing

SMP = """
import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image

model = smp.from_pretrained("{repository}").eval()
labels = {labels}
size, mean, std = {size}, {mean}, {std}  # of the input: height and width, by channel


def segment(path):
    picture = Image.open(path).convert("RGB")
    pixels = np.asarray(picture.resize(size[::-1], Image.Resampling.{resampling})) / 255
    inputs = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    padding = (0, -size[1] % 32, 0, -size[0] % 32)
    with torch.inference_mode():
        logits = model(torch.nn.functional.pad(inputs, padding))[..., : size[0], : size[1]]
    whole = torch.nn.functional.interpolate(logits, picture.size[::-1], mode="bilinear")
    return whole[0].argmax(0)


print(segment("picture.jpg"))
"""

TRANSFORMERS = """
from transformers import pipeline

pipe = pipeline("image-segmentation", "{repository}")


def segment(path):
    return pipe(path)


print(segment("picture.jpg"))
"""

ADAPTED_TRANSFORMERS = """
import transformers
from peft import PeftModel

labels = {labels}
base = transformers.AutoModelForSemanticSegmentation.from_pretrained(
    "{base}", id2label=dict(enumerate(labels)), ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(base, "{repository}").base_model.model.eval()
pixels_as = {processor}
processor = getattr(transformers, pixels_as.pop("image_processor_type"))(**pixels_as)
pipe = transformers.pipeline("image-segmentation", model, image_processor=processor)


def segment(path):
    return pipe(path)


print(segment("picture.jpg"))
"""


def segmentation_card_code(
    names: Sequence[str], preprocessing: Preprocessing, processor: Mapping[str, Any] | None
) -> tuple[str, str]:
    """The code for a merged network, and that for its adapter, "" if peft cannot load it.

    A network of transformers has a processor; one of smp has none, and is no library's own with
    pretrained weights in it, on which an adapter could be put.
    """
    blanks: Mapping[str, Any] = {
        "repository": REPOSITORY,
        "base": BASE,
        "labels": list(names),
        "size": preprocessing.size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "resampling": preprocessing.mode.upper(),
        "processor": processor,
    }
    codes = (SMP, "") if processor is None else (TRANSFORMERS, ADAPTED_TRANSFORMERS)
    code, adapted = (text.format(**blanks).strip() for text in codes)
    return code, adapted
