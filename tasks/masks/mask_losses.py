"""Losses of semantic segmentation as sums, each with a count of its own, and areas by class.

A pixel of class IGNORE counts for nothing; an image of such pixels alone adds 0 to every loss and
to every count.

Shapes: B images, H, W pixels, K classes; logits [B, K, H, W] are float32, masks uint8 [B, H, W].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from finetune.errors import ConfigError, nearest
from tasks.image.joint_augmentation import IGNORE

FOCUS = 2.0
"""The exponent of the focal loss, as in the paper."""
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_TERM = re.compile(r"^(?:(\d+(?:\.\d+)?)\s*\*?\s*)?([a-z_]+)$")


def cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Over pixels, each as heavy as its class [K]."""
    return functional.cross_entropy(
        logits, masks.long(), weights, ignore_index=IGNORE, reduction="sum"
    )


def focal(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy of each pixel times (1 - p)^2 (Lin et al. 2017, arXiv:1708.02002)."""
    plain = functional.cross_entropy(
        logits, masks.long(), ignore_index=IGNORE, reduction="none"
    )  # [B, H, W]
    return _weigh((1 - (-plain).exp()) ** FOCUS * plain, masks, weights).sum()


def dice(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """1 - Dice of an image, the mean over the classes it shows (Milletari et al. 2016)."""
    shares, truth = _flat(logits, masks)  # [B, K, H * W]
    both = (shares * truth).sum(2)
    areas = shares.sum(2) + truth.sum(2)
    present = truth.any(2)  # [B, K]
    lost = (1 - 2 * both / areas.clamp(min=1e-6)) * present
    return (lost.sum(1) / present.sum(1).clamp(min=1)).sum()


def lovasz(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """The convex surrogate of 1 - IoU of an image, the mean over the classes it shows (Berman et
    al. 2018, arXiv:1705.08790).
    """
    shares, truth = _flat(logits, masks)  # [B, K, H * W]
    present = truth.any(2)
    valid = (masks.flatten(1) != IGNORE)[:, None]
    errors = torch.where(valid, (truth.float() - shares).abs(), 0.0)
    errors, order = errors.sort(2, descending=True)
    hits = truth.float().gather(2, order)
    total = hits.sum(2, keepdim=True)
    missed = total - hits.cumsum(2)
    outside = total + (valid.float().expand_as(hits).gather(2, order) - hits).cumsum(2)
    jaccard = 1 - missed / outside.clamp(min=1)
    slope = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], 2)
    lost = (errors * slope).sum(2) * present
    return (lost.sum(1) / present.sum(1).clamp(min=1)).sum()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
}
_OVER_IMAGES = {"dice", "lovasz"}


def count_items(term: str, masks: Tensor, weights: Tensor | None) -> Tensor:
    """What a term's sum is divided by: images that show anything, or the weight of their pixels."""
    valid = masks != IGNORE
    if term in _OVER_IMAGES:
        return valid.flatten(1).any(1).sum().float()
    return _weigh(valid.float(), masks, weights).sum()


def count_terms(
    terms: Iterable[str], masks: Sequence[Tensor], weights: Tensor | None
) -> dict[str, Tensor]:
    """What the sum of each term over masks [H, W] is divided by."""
    return {
        term: torch.stack([count_items(term, mask[None], weights) for mask in masks]).sum()
        for term in terms
    }


def sum_terms(
    terms: Mapping[str, float],
    logits: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    weights: Tensor | None,
) -> dict[str, Tensor]:
    """Each term times its factor, over a batch, or over images that have sizes of their own."""
    if not isinstance(logits, Tensor):
        pairs = zip(logits, masks, strict=True)
        each = [sum_terms(terms, own[None], mask[None], weights) for own, mask in pairs]
        return {term: torch.stack([found[term] for found in each]).sum() for term in terms}
    assert isinstance(masks, Tensor), "images of one size have masks of one size"
    own = None if weights is None else weights.to(logits)
    return {term: LOSSES[term](logits, masks, own) * factor for term, factor in terms.items()}


def parse_loss(text: str | Mapping[str, float]) -> dict[str, float]:
    """{term: factor} of "cross_entropy + 0.5 dice". Raises ConfigError."""
    found: dict[str, float] = {}
    if isinstance(text, Mapping):
        found = dict(text)
    else:
        for part in text.split("+"):
            matched = _TERM.match(part.strip())
            if matched is None:
                raise ConfigError(
                    f"task.loss: {part.strip()!r} is no term; write cross_entropy + 0.5 dice"
                )
            found[matched[2]] = float(matched[1] or 1)
    for term in found:
        if term not in LOSSES:
            raise ConfigError(f"task.loss: there is no loss {term!r}; {nearest(term, LOSSES)}")
    if not found or any(factor <= 0 for factor in found.values()):
        raise ConfigError("task.loss: name at least one term, each with a factor above 0")
    return found


def check_weights(terms: Iterable[str], weights: object) -> None:
    """Raise ConfigError if classes have weights that no term takes."""
    if weights is not None and not {"cross_entropy", "focal"} & set(terms):
        raise ConfigError(
            f"task.class_weights: {' and '.join(terms)} weigh all classes alike; leave the "
            "weights out, or add cross_entropy or focal to task.loss"
        )


def areas(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Pixels that are rightly predicted, predicted, and of each class: int64 [K, 3].

    Of masks [H, W], where `mask` does not ignore them.
    """
    valid = mask != IGNORE
    said, true = predicted[valid].long(), mask[valid].long()
    columns = (said[said == true], said, true)
    return torch.stack([torch.bincount(pixels, minlength=classes) for pixels in columns], 1)


def area_metrics(areas: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Metrics of a split from areas [N, K, 3].

    IoU and Dice of a class are those of all pixels of the split together. A class that no pixel has
    is not measured: its IoU could only be 0, and the means would jump with one stray pixel of it.
    """
    hits, said, true = areas.double().sum(0).unbind(1)  # [K] each
    union = said + true - hits
    known = true > 0
    iou, dice = hits / union.clamp(min=1), 2 * hits / (said + true).clamp(min=1)
    found = {
        "mean_iou": _mean(iou[known]),
        "mean_dice": _mean(dice[known]),
        "pixel_accuracy": float(hits.sum() / true.sum().clamp(min=1)),
    }
    for name, value, own, is_known in zip(names, iou, dice, known, strict=True):
        if is_known:
            found |= {f"iou/{name}": float(value), f"dice/{name}": float(own)}
    return found


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _flat(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and what is true [B, K, H * W], both 0 where a pixel is ignored."""
    valid = (masks != IGNORE).flatten(1)[:, None]
    numbers = torch.arange(logits.shape[1], device=masks.device)[:, None]
    truth = masks.flatten(1)[:, None] == numbers
    return logits.softmax(1).flatten(2) * valid, truth & valid


def _weigh(values: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Values by pixel, each times the weight of its class."""
    if weights is None:
        return values
    padded = torch.cat([weights, weights.new_zeros(IGNORE + 1 - len(weights))])
    return values * padded[masks.long()]
