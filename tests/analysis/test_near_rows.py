"""Near duplicates of texts and pictures."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image, ImageEnhance

from finetune.analysis.near_pictures import SIDE, near_pictures
from finetune.analysis.near_texts import near_texts


def sentence(rng: random.Random, words: int = 60) -> list[str]:
    return [f"w{rng.randrange(500)}" for _ in range(words)]


def test_near_texts_finds_edited_copies_and_nothing_else() -> None:
    rng = random.Random(0)
    texts = [sentence(rng) for _ in range(200)]
    edited = [[*words[:20], "other", *words[22:]] for words in texts[:50]]
    rows = [[" ".join(words)] for words in texts + edited]
    assert {(pair.first, pair.second) for pair in near_texts(rows)} == {
        (index, 200 + index) for index in range(50)
    }


def test_near_texts_ignores_case_punctuation_and_empty_texts() -> None:
    rows = [
        ["A fine day, isn't it?"],
        ["a fine day isn t it"],
        [""],
        [],
        ["!"],
        ["good"],
        ["Good!"],
    ]
    assert [tuple(pair) for pair in near_texts(rows)] == [(0, 1, 1.0), (5, 6, 1.0)]


def test_near_texts_compares_each_text_of_a_row() -> None:
    passage = " ".join(sentence(random.Random(1)))
    rows = [[passage, "Is it so?"], [passage, "Who was first?"], [passage, "is it so"], [passage]]
    assert [tuple(pair)[:2] for pair in near_texts(rows)] == [(0, 2)]


def test_near_texts_reads_scripts_without_spaces() -> None:
    text = "今日はとても良い天気なので公園へ散歩に行きました。明日もまた行きたいと思います"
    assert near_texts([[text], [text.replace("公園", "海辺")], [text[::-1]]])[0][:2] == (0, 1)


def test_near_texts_takes_many_equal_texts() -> None:
    pairs = near_texts([["the same text in all of these rows"]] * 3000)
    assert {pair.second for pair in pairs} == set(range(1, 3000))


def gray(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def test_near_pictures_finds_scaled_compressed_and_brightened_copies() -> None:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 220, (8, 8, 3), dtype=np.uint8)) for _ in range(60)]
    pictures = [image.resize((96, 80), Image.Resampling.BICUBIC) for image in coarse]
    compressed = io.BytesIO()
    pictures[0].save(compressed, "JPEG", quality=50)
    copies = [
        Image.open(compressed),
        pictures[1].resize((48, 40)),
        ImageEnhance.Brightness(pictures[2]).enhance(1.1),
    ]
    found = near_pictures(np.stack([gray(image) for image in pictures + copies]))
    assert [tuple(pair)[:2] for pair in found] == [(0, 60), (1, 61), (2, 62)]


def test_near_pictures_of_one_color_are_no_duplicates() -> None:
    assert near_pictures(np.full((3, SIDE, SIDE), 200, dtype=np.uint8)) == []
