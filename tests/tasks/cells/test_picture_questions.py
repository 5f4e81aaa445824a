"""Sets whose labels belong to an image and a text together."""

from __future__ import annotations

import pytest

from finetune.errors import AmbiguityError, DataError
from tasks import ImageClassification, TextClassification
from tests.support.contract import resolve

PICTURES = [f"{n}.jpg" for n in range(4)]
TEXTS = [f"is it number {n}?" for n in range(4)]


@pytest.mark.parametrize(
    ("text", "label"),
    [("question", "answer"), ("hypothesis", "gold_label"), ("sentence", "label"), ("text", "y")],
)
def test_a_text_about_an_image_is_refused_with_both_readings(text: str, label: str) -> None:
    columns = {"image": PICTURES, text: TEXTS, label: ["yes", "no"] * 2}
    message = f"visual question .*task.image=image reads .*task.text={text} the texts alone"
    for task in (ImageClassification(), TextClassification()):
        with pytest.raises(AmbiguityError, match=message):
            resolve(task, columns)
    task = ImageClassification(image="image", label=label)
    resolve(task, columns)
    assert task.resolved_.label == label
    task = TextClassification(text=text)
    resolve(task, columns)
    assert task.resolved_.label == label


def test_a_text_beside_an_image_that_is_no_question_is_left_alone() -> None:
    task = ImageClassification()
    resolve(task, {"image": PICTURES, "title": TEXTS, "label": ["a", "b"] * 2})
    assert task.resolved_.image == "image"


def test_an_image_is_no_label_of_its_caption() -> None:
    with pytest.raises(DataError, match="no column looks like a label"):
        resolve(TextClassification(), {"image": PICTURES, "caption": TEXTS})
