"""Losses of semantic segmentation as sums with a count for each term, and area metrics by class.

Pixels of class IGNORE are left out: an image that has no others adds 0 to every loss and count.

Shapes: B images, H, W pixels, K classes, P pairs of classes; logits [B, K, H, W] are float32, masks
uint8 [B, H, W].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tasks.image.joint_augmentation import IGNORE

FOCUS = 2.0
"""Exponent of the focal loss, as in the paper."""
MOST_PAIRS = 256
"""Confused pairs of classes that are counted of an image: all of them up to 16 classes."""
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of the cross-entropy over pixels, weighted by class [K]."""
    return functional.cross_entropy(
        logits, masks.long(), weights, ignore_index=IGNORE, reduction="sum"
    )


def focal(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over pixels of the cross-entropy times (1 - p)^2 (Lin et al. 2017, arXiv:1708.02002)."""
    plain = functional.cross_entropy(
        logits, masks.long(), ignore_index=IGNORE, reduction="none"
    )  # [B, H, W]
    return _weigh((1 - (-plain).exp()) ** FOCUS * plain, masks, weights).sum()


def dice(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over images of the mean of 1 - Dice over the classes present (Milletari et al. 2016)."""
    probabilities, truth = _flatten(logits, masks)  # [B, K, H * W]
    intersection = (probabilities * truth).sum(2)
    areas = probabilities.sum(2) + truth.sum(2)
    present = truth.any(2)  # [B, K]
    losses = (1 - 2 * intersection / areas.clamp(min=1e-6)) * present
    return (losses.sum(1) / present.sum(1).clamp(min=1)).sum()


def lovasz(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over images of the mean Lovasz-softmax loss, a convex surrogate of 1 - IoU, over the
    classes present (Berman et al. 2018, arXiv:1705.08790).
    """
    probabilities, truth = _flatten(logits, masks)  # [B, K, H * W]
    present = truth.any(2)
    valid = (masks.flatten(1) != IGNORE)[:, None]
    errors = torch.where(valid, (truth.float() - probabilities).abs(), 0.0)
    errors, order = errors.sort(2, descending=True)
    hits = truth.float().gather(2, order)
    total = hits.sum(2, keepdim=True)
    missed = total - hits.cumsum(2)
    outside = total + (valid.float().expand_as(hits).gather(2, order) - hits).cumsum(2)
    jaccard = 1 - missed / outside.clamp(min=1)
    slope = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], 2)
    losses = (errors * slope).sum(2) * present
    return (losses.sum(1) / present.sum(1).clamp(min=1)).sum()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
}
_OVER_IMAGES = {"dice", "lovasz"}


def count_items(term: str, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Return the divisor of a term's sum: the number of images that are not ignored as a whole, or
    the total weight of the pixels.
    """
    valid = masks != IGNORE
    if term in _OVER_IMAGES:
        return valid.flatten(1).any(1).sum().float()
    return _weigh(valid.float(), masks, weights).sum()


def count_terms(
    terms: Iterable[str], masks: Sequence[Tensor], weights: Tensor | None
) -> dict[str, Tensor]:
    """Return the divisor of each term's sum over masks [H, W]."""
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
    """Return each term times its factor, for a batch or for a list of images of different sizes."""
    if not isinstance(logits, Tensor):
        pairs = zip(logits, masks, strict=True)
        each = [sum_terms(terms, image[None], mask[None], weights) for image, mask in pairs]
        return {term: torch.stack([sums[term] for sums in each]).sum() for term in terms}
    assert isinstance(masks, Tensor), "images of one size have masks of one size"
    weights = None if weights is None else weights.to(logits)
    return {term: LOSSES[term](logits, masks, weights) * factor for term, factor in terms.items()}


def count_areas(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Count per class the pixels of the intersection, the prediction and the truth: int64 [K, 3].

    `predicted` and `mask` are [H, W]; pixels ignored in `mask` are left out.
    """
    valid = mask != IGNORE
    guess, true = predicted[valid].long(), mask[valid].long()
    columns = (guess[guess == true], guess, true)
    return torch.stack([torch.bincount(pixels, minlength=classes) for pixels in columns], 1)


def count_confusions(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Count the wrong pixels by true and predicted class: int64 [P, 3] of these two and the pixels.

    The most frequent pairs come first; of more than MOST_PAIRS, the others are left out.
    """
    wrong = (mask != IGNORE) & (predicted != mask)
    pairs = mask[wrong].long() * classes + predicted[wrong].long()
    counts = torch.bincount(pairs, minlength=classes**2)
    pixels, found = counts.topk(min(MOST_PAIRS, len(counts)))
    pixels, found = pixels[pixels > 0], found[pixels > 0]
    return torch.stack([found // classes, found % classes, pixels], 1)


def area_metrics(areas: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Compute the metrics of a split from areas [N, K, 3] of `count_areas`.

    IoU and Dice of a class are computed over all pixels of the split together. A class without true
    pixels is left out: its IoU could only be 0, and one false positive would change the means.
    """
    hits, predicted, true = areas.double().sum(0).unbind(1)  # [K] each
    union = predicted + true - hits
    known = true > 0
    iou, dice = hits / union.clamp(min=1), 2 * hits / (predicted + true).clamp(min=1)
    metrics = {
        "mean_iou": _mean(iou[known]),
        "mean_dice": _mean(dice[known]),
        "pixel_accuracy": float(hits.sum() / true.sum().clamp(min=1)),
    }
    for name, class_iou, class_dice, is_known in zip(names, iou, dice, known, strict=True):
        if is_known:
            metrics |= {f"iou/{name}": float(class_iou), f"dice/{name}": float(class_dice)}
    return metrics


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _flatten(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and one-hot truth [B, K, H * W], both 0 for ignored pixels."""
    valid = (masks != IGNORE).flatten(1)[:, None]
    numbers = torch.arange(logits.shape[1], device=masks.device)[:, None]
    truth = masks.flatten(1)[:, None] == numbers
    return logits.softmax(1).flatten(2) * valid, truth & valid


def _weigh(values: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Multiply values of pixels by the weights of their classes."""
    if weights is None:
        return values
    padded = torch.cat([weights, weights.new_zeros(IGNORE + 1 - len(weights))])
    return values * padded[masks.long()]
