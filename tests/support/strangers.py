"""Use of published models by the code of their cards, with plain libraries and without the kit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finetune
from finetune.export.hub import push
from tests.support.hub_server import at, serve_hub
from tests.support.tiny_detectors import MAKERS, tiny_detector
from tests.support.tiny_models import (
    answered_rows,
    text_csv,
    text_rows,
    tiny_bart,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
)
from tests.support.tiny_scenes import SHAPES, SIZE, scene_folder, tiny_segformer, tiny_upernet
from tests.support.tiny_vision import shape_folder, tiny_timm, tiny_vit

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PROMPT = "Text: {body}\nTopic:"
NETWORKS: dict[str, Callable[[Path], Any]] = {
    "bert": lambda folder: tiny_bert(folder, dropout=0),
    "gpt2": lambda folder: tiny_gpt2(folder, dropout=0),
    "llama": tiny_llama,
    # At a spread of 2, rounding merged weights to float32 alone changes outputs by 4e-5 of the
    # largest, and float32 products by 3e-4 on some processors; below 1.8, some texts are empty.
    "t5": lambda folder: tiny_t5(folder, spread=1.8),
    "bart": tiny_bart,
    "timm": tiny_timm,
    "efficientnet": lambda folder: tiny_timm(folder, "test_efficientnet"),
    "vit": tiny_vit,
    "segformer": tiny_segformer,
    "upernet": tiny_upernet,
    **{name: lambda folder, name=name: tiny_detector(folder, name) for name in MAKERS},  # type: ignore[misc]
}


@dataclass(frozen=True)
class Case:
    """A run, and the part of it that is pushed.

    Attributes:
        change: a regular expression, and its replacement in the card's code.
    """

    model: str
    method: str = "full"
    what: str = "merged"
    use: str = "classify-text"
    keys: dict[str, Any] = field(default_factory=dict)
    change: tuple[str, str] | None = None


@dataclass(frozen=True)
class Use:
    """Training data of a task, and rows to predict.

    Attributes:
        verb: the function that the card's code defines.
        rows: input of the kit.
        asked: the same rows as input of that function.
        check: function that raises if predictions of the kit and of the card's code differ.
    """

    task: str
    verb: str
    data: Any
    rows: list[Any]
    asked: list[Any]
    check: Callable[[Any, Any], None]
    keys: dict[str, Any] = field(default_factory=dict)


def make_uses(folder: Path) -> dict[str, Use]:
    """Make all uses, with their data in `folder`."""
    texts = [row["text"] for row in text_rows(5, seed=3)]
    shapes = shape_folder(folder / "shapes")
    pictures = [str(path) for path in sorted(shapes.rglob("*.png"))[::11]]
    scenes = scene_folder(folder / "scenes")
    photos = [str(path) for path in sorted((scenes / "test/images").iterdir())[:4]]
    shutil.copy(pictures[0], folder / "picture.jpg")  # the file that card code opens
    bodies = [row["body"] for row in answered_rows(4, seed=1)]
    chats = [[{"role": "user", "content": body}] for body in bodies]
    dialogues = [
        {
            "messages": [
                {"role": "user", "content": row["body"]},
                {"role": "assistant", "content": row["answer"].strip()},
            ]
        }
        for row in answered_rows(40)
    ]
    prompted = {"task.prompt": PROMPT, "task.completion": "{answer}"}
    learns: dict[str, Any] = {"max_new_tokens": 6, "lr": 3e-3, "data.validation": 0}
    boxes = {"task.score_threshold": 0.0, "image_size": 64, "data.limit": 16}
    masks = {"image_size": [32, 48], "lr": 2e-3, "epochs": 2}
    return {
        "classify-text": Use(
            "text-classification",
            "classify",
            str(text_csv(folder / "news.csv")),
            texts,
            texts,
            check_label,
        ),
        "classify-image": Use(
            "image-classification", "classify", str(shapes), pictures, pictures, check_label
        ),
        "detect": Use(
            "object-detection", "detect", str(scenes), photos, photos, check_boxes, boxes
        ),
        "segment": Use("segmentation", "segment", str(scenes), photos, photos, check_masks, masks),
        "write": Use(
            "text-generation",
            "write",
            answered_rows(40),
            bodies,
            [PROMPT.format(body=body) for body in bodies],
            check_text,
            learns | prompted,
        ),
        "chat": Use("text-generation", "write", dialogues, chats, chats, check_text, learns),
    }


def check_label(right: Any, answer: Any) -> None:
    """Check a pipeline's list of one dict, or {label: score}."""
    if isinstance(answer, list):
        label, score = answer[0]["label"], answer[0]["score"]
    else:
        label = max(answer, key=answer.__getitem__)
        score = answer[label]
    assert score == pytest.approx(right["score"], abs=1e-4)
    assert label == right["label"]


def check_text(right: Any, answer: str) -> None:
    assert right["generated_text"]
    assert right["generated_text"] == answer.strip()


def check_boxes(right: Any, answer: Any) -> None:
    """Compare the best boxes; the pipeline does not clip them at the image's border."""

    def best(boxes: Any) -> list[Any]:
        return sorted(boxes, key=lambda item: (-round(item["score"], 4), item["label"]))[:5]

    assert right
    for ours, theirs in zip(best(right), best(answer), strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-3)
        for side, value in ours["box"].items():
            border = SIZE[side in ("ymin", "ymax")]
            assert abs(value - min(max(theirs["box"][side], 0), border)) <= 1


def check_masks(right: Any, answer: Any) -> None:
    """Compare with a mask of class numbers, or with a pipeline's segments (resized differently)."""
    classes = classes_of(answer) if isinstance(answer[0], dict) else np.asarray(answer)
    assert classes.shape == SIZE[::-1]
    assert (classes_of(right) == classes).mean() > 0.98  # borders of classes may differ


def classes_of(segments: Any) -> Any:
    """Return the class of each pixel [H, W]."""
    classes = np.full(SIZE[::-1], -1)
    for item in segments:
        classes[np.asarray(item["mask"]) > 0] = SHAPES.index(item["label"])
    return classes


class World:
    """A hub with tiny pretrained networks, local copies of them, and data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hub = folder, folder / "hub"
        self.uses = make_uses(folder)

    def train(self, case: Case) -> finetune.Run:
        """Train the run of a case; cases that differ only in the pushed part share a run."""
        use = self.uses[case.use]
        keys: dict[str, Any] = {"epochs": 1, "batch_size": 16, **use.keys, **case.keys}
        keys |= {"model": str(self._network(case.model)), "method": case.method}
        folder = self.folder / "-".join(
            [case.use, case.model, case.method, *map(str, case.keys.values())]
        )
        if (folder / "results.json").exists():
            return finetune.Run(folder)
        keys |= {"output.base_model": f"base/{case.model}", "output": str(folder)}
        return finetune.train(use.task, data=use.data, **keys)

    def _network(self, name: str) -> Path:
        """Make a pretrained network, locally and on the hub."""
        folder = self.folder / "models" / name
        if not folder.exists():
            NETWORKS[name](folder)
            (folder / "README.md").write_text("---\nlicense: mit\n---\n")
            shutil.copytree(folder, self.hub / "models" / "base" / name)
        return folder

    def publish_and_read(self, cases: dict[str, Case]) -> dict[str, tuple[Any, Any]]:
        """Return {case: (predictions of the kit, results of the card's code)}."""
        inputs, expected = {}, {}
        self.hub.mkdir(exist_ok=True)
        with serve_hub(self.hub) as address, at(address, self.hub):
            for name, case in cases.items():
                run, use = self.train(case), self.uses[case.use]
                push(run.path, f"me/{name}", what=case.what)
                code = CODE.findall((self.hub / "models" / "me" / name / "README.md").read_text())
                changed = re.subn(*case.change, code[0]) if case.change else (code[0], 1)
                assert changed[1], "the expression to change is not in the code"
                inputs[name] = {"code": changed[0], "verb": use.verb, "rows": use.asked}
                expected[name] = run.predict(use.rows)
            results = self._without_kit(inputs, address)
        return {name: (expected[name], results[name]) for name in cases}

    def _without_kit(self, inputs: dict[str, Any], address: str) -> dict[str, Any]:
        (self.folder / "cases.json").write_text(json.dumps(inputs))
        script = shutil.copy(Path(__file__).with_name("plain_libraries.py"), self.folder)
        environment = {
            **{key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": address,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-I", script, "cases.json", "results.json"]
        subprocess.run(command, cwd=self.folder, env=environment, check=True, timeout=600)
        return json.loads((self.folder / "results.json").read_text())  # type: ignore[no-any-return]

    def assert_same(self, case: Case, expected: Any, actual: Any) -> None:
        """Compare the predictions of the kit with the results of the card's code, row by row."""
        assert not isinstance(actual, str), actual
        assert len(actual) == len(expected) > 0
        for right, answer in zip(expected, actual, strict=True):
            self.uses[case.use].check(right, answer)
