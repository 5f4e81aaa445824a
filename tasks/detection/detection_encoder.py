"""Encoding of an image and its objects for a detector: whole or in tiles, augmented or not.

Shapes: T tiles of a row (1 without tiling), C channels, H, W pixels of the input, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.task_parts.samples import Rng, Sample
from tasks.detection.object_reader import Truth
from tasks.image.canvas import Canvas, Frame
from tasks.image.image_config import JointAugmentationConfig
from tasks.image.joint_augmentation import JointAugmentation, Scene
from tasks.image.preprocessing import INPUT
from tasks.image.tiles import Window

MASK = "pixel_mask"


@dataclass(frozen=True)
class Encoder:
    """Encoder of an image, uint8 [C, h, w], to a sample.

    Attributes:
        config: augmentation keys, used if an rng is given.
        canvas: the input that images are fitted to.
        masks: True if the network reads a mask of the pixels that the image covers.
    """

    config: JointAugmentationConfig
    canvas: Canvas
    masks: bool = False

    def __call__(
        self, image: Tensor, truth: Truth | None, windows: Sequence[Window], rng: Rng | None
    ) -> Sample:
        """Return {"inputs": {name: [T, ...]}, "frames": [T, 6], "target": ...} for all windows.

        The target is {"boxes", "labels": T tensors each, "truth": {name: [M, ...]}}, and is missing
        without `truth`.
        """
        views = [self._view(image, truth, window, rng) for window in windows]
        frames = [frame for frame, _ in views]
        inputs = {INPUT: torch.stack([self._pixels(scene, frame) for frame, scene in views])}
        if self.masks:
            inputs[MASK] = torch.stack([self._mask(frame) for frame in frames])
        sample: Sample = {"inputs": inputs, "frames": torch.stack([f.tensor() for f in frames])}
        if truth is not None:
            labels = truth.labels[~truth.crowds]
            sample["target"] = {
                "boxes": [scene.boxes for _, scene in views],
                "labels": [labels[scene.kept] for _, scene in views],
                "truth": truth.tensors(),
            }
        return sample

    def _view(
        self, image: Tensor, truth: Truth | None, window: Window, rng: Rng | None
    ) -> tuple[Frame, Scene]:
        """Cut out a window of an image, augment it, and resize it to its size on the canvas."""
        left, top, right, bottom = window
        frame = self.canvas.frame(bottom - top, right - left, (left, top))
        preprocessing = self.canvas.preprocessing
        fill = preprocessing.restore(torch.zeros(len(image), 1, 1)).flatten().tolist()
        augment = JointAugmentation(self.config, frame.content, tuple(fill), preprocessing.mode)
        scene = Scene(image, boxes=truth.boxes[~truth.crowds] if truth else None)
        area = (float(top), float(left), float(bottom - top), float(right - left))
        return frame, augment.plain(scene, area) if rng is None else augment(scene, rng, area)

    def _pixels(self, scene: Scene, frame: Frame) -> Tensor:
        """Return the normalized input [C, H, W]; the area outside the image is 0."""
        pixels = self.canvas.preprocessing.normalize(scene.image)
        if frame.content == self.canvas.size:
            return pixels
        padded = pixels.new_zeros(len(pixels), *self.canvas.size)
        padded[:, : frame.content[0], : frame.content[1]] = pixels
        return padded

    def _mask(self, frame: Frame) -> Tensor:
        """Return a mask of the pixels that the image covers, 0 or 1, int64 [H, W]."""
        mask = torch.zeros(self.canvas.size, dtype=torch.int64)
        mask[: frame.content[0], : frame.content[1]] = 1
        return mask


def pad_boxes(parts: Sequence[Tensor]) -> Tensor:
    """Pad tensors [M, ...] of different M with 0 and stack them: [B, largest M, ...]."""
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)


def stack_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """Join samples to a batch without targets: inputs and frames [sum of T, ...], tiles [B]."""
    batch: dict[str, Any] = {
        "frames": torch.cat([sample["frames"] for sample in samples]),
        "tiles": torch.tensor([len(sample["frames"]) for sample in samples]),
    }
    if "inputs" in samples[0]:
        names = samples[0]["inputs"]
        batch["inputs"] = {
            name: torch.cat([sample["inputs"][name] for sample in samples]) for name in names
        }
    return batch
