"""Losses and metrics of segmentation, compared with smp and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from torch import Tensor, nn

from tasks import Segmentation
from tasks.image.joint_augmentation import IGNORE
from tasks.masks.mask_coding import MaskCoding
from tasks.masks.mask_losses import LOSSES, area_metrics, count_areas, count_items
from tasks.masks.segmentation_config import LOSS_TERMS, parse_loss
from tests.support.segmentation_runs import build
from tests.support.tiny_scenes import scene_rows


def random_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make logits of 6 images and their masks: one ignored as a whole, one in half."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, 9, 8, generator=generator)
    masks = torch.randint(0, 5, (6, 9, 8), generator=generator).to(torch.uint8)
    masks[0] = IGNORE
    masks[1, :4] = IGNORE
    return logits, masks


@pytest.mark.parametrize("term", LOSSES)
def test_mask_losses_of_an_ignored_mask_are_0(term: str) -> None:
    logits, masks = random_batch()
    logits = logits.requires_grad_()
    weights = torch.tensor([1.0, 2, 3, 4, 5])
    for class_weights in (None, weights):
        loss = LOSSES[term](logits[:1], masks[:1], class_weights)
        assert float(loss.detach()) == 0
        assert float(count_items(term, masks[:1], class_weights)) == 0
        loss.backward()
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros_like(logits.grad))
    others = LOSSES[term](logits, masks, weights) - LOSSES[term](logits[1:], masks[1:], weights)
    assert abs(float(others.detach())) < 1e-3


def test_mask_losses_equal_those_of_smp() -> None:
    logits, masks = random_batch()
    masks = masks[2:] % 5
    logits = logits[2:]
    ce = LOSSES["cross_entropy"](logits, masks, None) / count_items("cross_entropy", masks, None)
    torch.testing.assert_close(ce, nn.functional.cross_entropy(logits, masks.long()))
    lovasz = smp.losses.LovaszLoss("multiclass", per_image=True)(logits, masks.long())
    torch.testing.assert_close(LOSSES["lovasz"](logits, masks, None) / len(masks), lovasz)
    dice_loss = smp.losses.DiceLoss("multiclass")
    dice = [dice_loss(logits[n : n + 1], masks[n : n + 1].long()) for n in range(len(masks))]
    torch.testing.assert_close(LOSSES["dice"](logits, masks, None), torch.stack(dice).sum())
    correct = logits.softmax(1).gather(1, masks.long()[:, None])[:, 0]
    focal = (-((1 - correct) ** 2) * correct.log()).sum()
    torch.testing.assert_close(LOSSES["focal"](logits, masks, None), focal)


def test_segmentation_gradient_does_not_depend_on_micro_batches(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    task, model = build(segmentation_networks["resnet"], scenes)
    samples = [task.encode(row) for row in scene_rows(scenes)]

    def gradient(*parts: list[Any]) -> Tensor:
        model.zero_grad()
        batches = [task.collate(part) for part in parts]
        counts = {
            term: sum(batch["count"][term] for batch in batches)
            for term in ("cross_entropy", "dice")
        }
        for batch in batches:
            terms = task.loss(model(batch), batch)
            torch.stack([terms[term] / counts[term] for term in terms]).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(samples)
    cut = gradient(samples[:1], samples[1:4], samples[4:])
    assert float((whole - cut).abs().max() / whole.abs().max()) < 1e-5


def test_segmentation_metrics_equal_those_of_scikit_learn() -> None:
    _, masks = random_batch()
    predicted = masks.roll(1, 2) % 5
    stats = torch.stack([count_areas(p, m, 5) for p, m in zip(predicted, masks, strict=True)])
    assert stats.shape == (6, 5, 3)
    task = Segmentation()
    task.coding_ = MaskCoding("index", (0, 1, 2, 3, 4), tuple("abcde"))
    metrics = task.summarize({"areas": stats})
    valid = masks != IGNORE
    true, guess = masks[valid].numpy(), predicted[valid].numpy()
    assert metrics["mean_iou"] == pytest.approx(jaccard_score(true, guess, average="macro"))
    assert metrics["mean_dice"] == pytest.approx(f1_score(true, guess, average="macro"))
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(true, guess))


def test_area_metrics_leave_out_a_class_without_true_pixels() -> None:
    stats = count_areas(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 1, 1, IGNORE]]), 3)[None]
    metrics = area_metrics(stats, ["a", "b", "c"])
    assert (metrics["iou/a"], metrics["iou/b"], metrics["mean_iou"]) == (1, 0.5, 0.75)
    assert "iou/c" not in metrics


def test_parse_loss_reads_a_weighted_sum() -> None:
    assert parse_loss("cross_entropy + 0.5 dice") == {"cross_entropy": 1.0, "dice": 0.5}
    assert parse_loss({"focal": 2.0}) == {"focal": 2.0}
    for wrong in ("dice +", "0 dice", "dice * 2", "dicee"):
        with pytest.raises(ValueError, match="cannot parse|factor above 0|did you mean 'dice'"):
            parse_loss(wrong)


def test_the_config_names_all_losses() -> None:
    assert set(LOSS_TERMS) == set(LOSSES)
