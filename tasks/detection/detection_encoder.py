"""A picture with its objects -> what a detector reads and should say: whole, augmented or in tiles.

Shapes: T tiles of a row (1 without tiles), H, W pixels of the input, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.task_parts import Rng, Sample
from tasks.detection.object_reader import Truth
from tasks.image.canvas import Canvas, Frame
from tasks.image.joint_augmentation import JointAugmentation, JointAugmentationConfig, Scene
from tasks.image.preprocessing import INPUT
from tasks.image.tiles import Window

MASK = "pixel_mask"


@dataclass(frozen=True)
class Encoder:
    """From a picture uint8 [3, h, w] to a sample.

    Attributes:
        config: how it is augmented, where there is an rng.
        masks: whether the network asks which pixels are of the picture.
    """

    config: JointAugmentationConfig
    canvas: Canvas
    masks: bool = False

    def __call__(
        self, image: Tensor, truth: Truth | None, windows: Sequence[Window], rng: Rng | None
    ) -> Sample:
        """{"inputs": {name: [T, ...]}, "frames": [T, 6], "target": ...} of the windows of an image.

        The target, if there is a truth: {"boxes", "labels": T tensors, "truth": {name: [M, ...]}}.
        """
        seen = [self._see(image, truth, window, rng) for window in windows]
        frames = [frame for frame, _ in seen]
        inputs = {INPUT: torch.stack([self._pixels(scene, frame) for frame, scene in seen])}
        if self.masks:
            inputs[MASK] = torch.stack([self._mask(frame) for frame in frames])
        sample: Sample = {"inputs": inputs, "frames": torch.stack([f.tensor() for f in frames])}
        if truth is not None:
            labels = truth.labels[~truth.crowds]
            sample["target"] = {
                "boxes": [scene.boxes for _, scene in seen],
                "labels": [labels[scene.kept] for _, scene in seen],
                "truth": truth.tensors(),
            }
        return sample

    def _see(
        self, image: Tensor, truth: Truth | None, window: Window, rng: Rng | None
    ) -> tuple[Frame, Scene]:
        """What is seen of a window of an image, in the size that it has on the canvas."""
        left, top, right, bottom = window
        frame = self.canvas.frame(bottom - top, right - left, (left, top))
        held = self.canvas.preprocessing
        fill = held.restore(torch.zeros(3, 1, 1)).flatten().tolist()
        show = JointAugmentation(self.config, frame.content, tuple(fill), held.mode)
        scene = Scene(image, boxes=truth.boxes[~truth.crowds] if truth else None)
        area = (float(top), float(left), float(bottom - top), float(right - left))
        return frame, show.plain(scene, area) if rng is None else show(scene, rng, area)

    def _pixels(self, scene: Scene, frame: Frame) -> Tensor:
        """The input [3, H, W]; what the picture does not fill is 0."""
        pixels = self.canvas.preprocessing.normalize(scene.image)
        if frame.content == self.canvas.size:
            return pixels
        placed = pixels.new_zeros(3, *self.canvas.size)
        placed[:, : frame.content[0], : frame.content[1]] = pixels
        return placed

    def _mask(self, frame: Frame) -> Tensor:
        """1 where the picture is, int64 [H, W]."""
        mask = torch.zeros(self.canvas.size, dtype=torch.int64)
        mask[: frame.content[0], : frame.content[1]] = 1
        return mask


def pad_boxes(parts: Sequence[Tensor]) -> Tensor:
    """Tensors [M, ...] of several M in one, [B, largest M, ...], filled with 0."""
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)


def stack(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples as a batch without targets: inputs [sum of T, ...], frames, and T of each row."""
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
