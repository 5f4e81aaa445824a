"""Attributions of words and heat maps: what they add up to, and where they point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from finetune.batching.data_loader import encode_batch
from tasks.audits.class_activation import activation_maps, overlay
from tasks.audits.word_pieces import group_words, special_ids
from tests.support import text_classifiers
from tests.support.image_classifiers import set_up_classifier
from tests.support.tiny_vision import shape_rows, tiny_timm, tiny_vit


@pytest.mark.parametrize("model", ["bert_folder", "gpt2_folder"])
def test_words_add_up_to_the_change_of_the_output(
    model: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("captum")
    rows = text_classifiers.SINGLE
    task, network = text_classifiers.set_up(request.getfixturevalue(model), rows)
    network.eval()
    first, other = task.views.explain(network, rows[:2], [0, 1])
    words = rows[0]["text"].lower().split()
    assert "".join(word for word, _ in first.words).replace(" ", "") == "".join(words)
    assert "completeness error" in first.note
    assert float(first.note.rpartition("(")[2].partition("%")[0]) < 5
    total = float(first.note.rpartition("output by ")[2].partition(";")[0])
    assert sum(weight for _, weight in first.words) == pytest.approx(
        total, abs=0.05 * abs(total) + 1e-3
    )
    assert first.words != other.words


def test_words_are_grouped_from_their_pieces(bert_folder: Path, gpt2_folder: Path) -> None:
    for folder in (bert_folder, gpt2_folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("shares of the market")["input_ids"]
        words = group_words(tokenizer, ids)
        assert [word for word, _ in words] == ["shares", "of", "the", "market"]
        positions = [position for _, group in words for position in group]
        assert positions == sorted(set(positions))
        framing = special_ids(tokenizer)
        assert len(positions) == sum(index not in framing for index in ids)
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    unknown = tokenizer("shares of 株式")["input_ids"]  # a word of the text, though not known
    assert [word for word, _ in group_words(tokenizer, unknown)][:3] == ["shares", "of", "[UNK]"]


@pytest.mark.parametrize("make", [tiny_timm, tiny_vit])
def test_heat_maps_have_the_size_of_the_image(make: Callable[[Path], Path], tmp_path: Path) -> None:
    pytest.importorskip("pytorch_grad_cam")
    rows = shape_rows(6)
    task, network = set_up_classifier(make(tmp_path / "network"))
    explanations = task.views.explain(network, rows[:3], [0, 1, 2])
    assert [each.pictures[0].caption for each in explanations] == [
        f"Grad-CAM of {name!r}" for name in task.targets.names
    ]
    images = encode_batch(task, rows[:3])["inputs"]
    name, pixels = next(iter(images.items()))
    maps = activation_maps(network, name, pixels, [0, 1, 2])
    assert maps is not None
    assert maps.shape == (3, *pixels.shape[2:])
    assert maps.min() >= 0
    assert maps.max() <= 1
    again = activation_maps(network, name, torch.flip(pixels, [0]), [2, 1, 0])
    assert np.allclose(maps, again[::-1], atol=1e-3)


def test_heat_colors_only_the_places_that_are_warm() -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((4, 4))
    heat[0, 0] = 1.0
    colored = overlay(picture, heat)
    assert (colored[1:] == 100).all()
    assert colored[0, 0, 0] > 150
    assert colored[0, 0, 2] < 100
