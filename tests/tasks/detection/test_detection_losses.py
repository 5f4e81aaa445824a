"""FCOS and the losses of queries: equal to the libraries' own, but for sums in place of means."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from finetune.errors import ModelError
from tasks.backbones.pyramid import find_maps
from tasks.detection import fcos
from tasks.detection.detectors import QueryModel
from tasks.detection.queries import QueryHead, family_of
from tasks.detection.suppression import Suppression
from tests.support.tiny_detectors import MAKERS, SIDE

SIZE = (128, 192)
BOXES = [
    torch.tensor([[10.0, 10, 60, 70], [80, 20, 120, 60], [5, 5, 20, 22], [0, 0, 190, 127]]),
    torch.zeros(0, 4),
    torch.tensor([[30.0, 30, 34, 34]]),
]
LABELS = [torch.tensor([0, 2, 1, 1]), torch.zeros(0, dtype=torch.int64), torch.tensor([2])]


def test_fcos_losses_and_detections_equal_torchvision() -> None:
    torch.manual_seed(0)
    network = fcos.build_fcos(timm.create_model("test_resnet"), SIZE, 3, width=64, convolutions=1)
    images = torch.randn(3, 3, *SIZE)
    levels = list(network.backbone(images).values())
    outputs = network.head(levels)
    head = fcos.FcosHead(SIZE)
    places = head.locations
    anchors = network.anchor_generator(ImageList(images, [SIZE] * 3), levels)
    assert torch.equal(anchors[0], places.squares)
    assert places.levels == tuple(level.shape[2] * level.shape[3] for level in levels)

    truth = [{"boxes": b, "labels": n} for b, n in zip(BOXES, LABELS, strict=True)]
    native = network.compute_loss(truth, outputs, anchors, list(places.levels))
    targets, count = head.make_targets(BOXES, LABELS, torch.zeros(3, 4))
    ours = head.losses(outputs, targets)
    positives = len(targets["place"])
    assert positives > 10
    for name, theirs in (
        ("classes", "classification"),
        ("boxes", "bbox_regression"),
        ("centerness", "bbox_ctrness"),
    ):
        torch.testing.assert_close(ours[name] / positives, native[theirs])
    assert float(count["boxes"]) == positives
    # The picture without boxes counts as one, so that a step of such pictures is not divided by 0.
    assert float(count["classes"]) == positives + 1

    network.score_thresh = 0.05
    split = {name: list(each.split(list(places.levels), 1)) for name, each in outputs.items()}
    squares = [list(each.split(list(places.levels))) for each in anchors]
    theirs = network.postprocess_detections(split, squares, [SIZE] * 3)
    found = head.detect(outputs, torch.zeros(3, 4), Suppression(0.05))
    for one, other in zip(found, theirs, strict=True):
        assert len(one["scores"]) == 100
        for name in one:
            torch.testing.assert_close(one[name], other[name])


def test_fcos_new_head_predicts_sized_boxes_of_low_score() -> None:
    torch.manual_seed(0)
    network = fcos.build_fcos(timm.create_model("test_resnet"), SIZE, 3, width=64, convolutions=1)
    outputs = network.head(list(network.backbone(torch.randn(1, 3, *SIZE)).values()))
    assert (
        float(outputs["bbox_regression"].min()) > 0.5
    )  # torchvision's own start at 0: no gradient
    assert float(outputs["cls_logits"].sigmoid().mean()) == pytest.approx(0.01, abs=0.005)


def test_fcos_rejects_a_network_without_a_pyramid() -> None:
    with pytest.raises(ModelError, match="has no feature map of stride 8, 32"):
        find_maps(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2))


def query_network(name: str) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(0)
    network = MAKERS[name]().eval()
    if name == "d-fine":
        network.model.decoder.training = True
    return network, {"pixel_values": torch.randn(3, 3, SIDE, SIDE)}


@pytest.mark.parametrize("name", MAKERS)
def test_query_losses_equal_those_of_transformers(name: str) -> None:
    network, inputs = query_network(name)
    head = QueryHead(family_of(network), network.config)
    scaled = [box / torch.tensor([3.0, 2, 3, 2]) for box in BOXES]
    targets, count = head.make_targets(scaled, LABELS, torch.full((3, 2), float(SIDE)))
    model = QueryModel(network, ["class_labels_classifier" if name == "detr" else "class_embed"])
    with torch.no_grad():
        outputs = model({"inputs": inputs})
        if name == "d-fine":
            theirs = library_loss_of_d_fine(network, inputs, targets["rows"])
            del outputs["layers"][1]  # what D-FINE says before its first layer is not in theirs
        else:
            theirs = float(network(**inputs, labels=targets["rows"]).loss)
        ours = head.losses(outputs, targets)
    total = sum(float(ours[term] / count[term]) for term in ours if term != "corners")
    if name != "detr":  # a picture without boxes counts as one for the classes, there as none
        total += float(ours["classes"]) * (1 / float(count["boxes"]) - 1 / float(count["classes"]))
    assert total == pytest.approx(theirs, rel=1e-5)


def library_loss_of_d_fine(network: Any, inputs: Any, rows: Any) -> float:
    """With the corners of a layer beside its own boxes, and without the distillation, which is a
    mean over the batch there.
    """
    said = network(**inputs)
    loss, terms, _ = network.loss_function(
        said.logits,
        rows,
        "cpu",
        said.pred_boxes,
        network.config,
        said.intermediate_logits[:, 1:],
        said.intermediate_reference_points[:, 1:],
        enc_topk_logits=said.enc_topk_logits,
        enc_topk_bboxes=said.enc_topk_bboxes,
        predicted_corners=said.intermediate_predicted_corners,
        initial_reference_points=said.initial_reference_points,
    )
    return float(loss) - sum(float(value) for term, value in terms.items() if "ddf" in term)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_fcos_assigns_each_location_the_smallest_box_that_fits(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(6, 2, generator=generator) * 120
    boxes = torch.cat([start, start + 2 + torch.rand(6, 2, generator=generator) * 100], 1)
    places = fcos.make_locations((128, 128))
    matched = fcos.assign_locations(boxes, places)
    centers = (places.squares[:, :2] + places.squares[:, 2:]) / 2
    for place in (matched >= 0).nonzero()[:, 0].tolist():
        left, top, right, bottom = boxes[matched[place]].tolist()
        across, down = centers[place].tolist()
        assert left < across < right
        assert top < down < bottom
