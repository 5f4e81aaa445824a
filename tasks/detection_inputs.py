"""A picture with its objects -> what a detector reads and should say: whole, augmented or in tiles.

Shapes: T tiles of a row (1 without tiles), H, W pixels of the input, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.task import Rng, Sample
from tasks.canvas import Canvas, Frame
from tasks.joint_augmentation import JointAugmentation, JointAugmentationConfig, Scene, clip_boxes
from tasks.preprocessing import INPUT
from tasks.tiles import Window

MASK = "pixel_mask"


@dataclass(frozen=True)
class Truth:
    """The true objects of a picture, in its own pixels.

    Attributes:
        boxes: float32 [M, 4].
        labels: int64 [M].
        areas: float32 [M], as the metrics by size count them.
        crowds: bool [M]: groups of objects, which are no example and no fault to find.
    """

    boxes: Tensor
    labels: Tensor
    areas: Tensor
    crowds: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the statistics."""
        return {
            "true_boxes": self.boxes,
            "true_labels": self.labels,
            "true_areas": self.areas,
            "crowds": self.crowds,
        }


@dataclass(frozen=True)
class Encoder:
    """From a picture uint8 [3, h, w] to a sample.

    Attributes:
        masks: whether the network asks which pixels are of the picture.
        visible: share of a box that must lie in a tile or a crop, or it is no object there.
    """

    canvas: Canvas
    augmentation: JointAugmentationConfig | None = None
    masks: bool = False
    visible: float = 0.3

    def __call__(
        self, image: Tensor, truth: Truth | None, windows: Sequence[Window], rng: Rng | None
    ) -> Sample:
        """{"inputs": {name: [T, ...]}, "frames": [T, 6], "target": ...} of the windows of an image.

        The target, if there is a truth: {"boxes", "labels": T tensors, "truth": {name: [M, ...]}}.
        """
        seen = [self._see(image, truth, window, rng) for window in windows]
        inputs = {INPUT: torch.stack([pixels for pixels, *_ in seen])}
        frames = [frame for _, frame, *_ in seen]
        if self.masks:
            inputs[MASK] = torch.stack([self._mask(frame) for frame in frames])
        sample: Sample = {"inputs": inputs, "frames": torch.stack([f.tensor() for f in frames])}
        if truth is not None:
            sample["target"] = {
                "boxes": [boxes for *_, boxes, _ in seen],
                "labels": [labels for *_, labels in seen],
                "truth": truth.tensors(),
            }
        return sample

    def _see(
        self, image: Tensor, truth: Truth | None, window: Window, rng: Rng | None
    ) -> tuple[Tensor, Frame, Tensor, Tensor]:
        """Input [3, H, W], frame, boxes [M, 4] on the canvas and labels [M] of one window."""
        left, top, right, bottom = window
        cut = image[:, top:bottom, left:right]
        boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        if truth is not None:
            examples = ~truth.crowds
            moved = truth.boxes[examples] - torch.tensor([left, top, left, top])
            is_whole = (bottom - top, right - left) == tuple(image.shape[-2:])
            size = (bottom - top, right - left)
            boxes, kept = clip_boxes(moved, size, 0.0 if is_whole else self.visible)
            labels = truth.labels[examples][kept]
        frame = self.canvas.frame(bottom - top, right - left, (left, top))
        if rng is None or self.augmentation is None:
            scaled = boxes * torch.tensor(frame.scale).repeat(2)
            return self.canvas.place(cut, frame), frame, scaled, labels
        fill = self.canvas.preprocessing.restore(torch.zeros(3, 1, 1)).flatten().tolist()
        augment = JointAugmentation(
            self.augmentation, frame.content, tuple(fill), self.canvas.preprocessing.mode
        )
        scene = augment(Scene(cut, boxes=boxes), rng)
        assert scene.boxes is not None and scene.kept is not None
        pixels = self.canvas.place(scene.image, frame)
        return pixels, frame, scene.boxes, labels[scene.kept]

    def _mask(self, frame: Frame) -> Tensor:
        """1 where the picture is, int64 [H, W]."""
        mask = torch.zeros(self.canvas.size, dtype=torch.int64)
        mask[: frame.content[0], : frame.content[1]] = 1
        return mask


def pad(parts: Sequence[Tensor]) -> Tensor:
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
