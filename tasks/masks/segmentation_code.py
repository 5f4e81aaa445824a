"""Model-card code that runs a published segmentation model without this kit.

Each snippet defines `segment(path)`, which returns a mask of class numbers [H, W], or the output of
the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.task_parts.views import BASE, REPOSITORY
from tasks.image.preprocessing import Preprocessing

SMP = """
import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image

model = smp.from_pretrained("{repository}").eval()
labels = {labels}
size, mean, std = {size}, {mean}, {std}  # (height, width) of the input; per channel


def segment(path):
    image = Image.open(path).convert("RGB")
    pixels = np.asarray(image.resize(size[::-1], Image.Resampling.{resampling})) / 255
    inputs = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    padding = (0, -size[1] % 32, 0, -size[0] % 32)
    with torch.inference_mode():
        logits = model(torch.nn.functional.pad(inputs, padding))[..., : size[0], : size[1]]
    logits = torch.nn.functional.interpolate(logits, image.size[::-1], mode="bilinear")
    return logits[0].argmax(0)


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
config = {processor}
processor = getattr(transformers, config.pop("image_processor_type"))(**config)
pipe = transformers.pipeline("image-segmentation", model, image_processor=processor)


def segment(path):
    return pipe(path)


print(segment("picture.jpg"))
"""


def segmentation_card_code(
    names: Sequence[str], preprocessing: Preprocessing, processor: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Return the code for a merged network and for an adapter, "" if peft cannot load one.

    A network of transformers has a processor. One of smp has none, and no adapters: its pretrained
    encoder inside smp's network is not a checkpoint that peft could load.
    """
    fields: Mapping[str, Any] = {
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
    merged, adapted = (text.format(**fields).strip() for text in codes)
    return merged, adapted
