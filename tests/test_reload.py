"""A published model is used by a stranger: with its plain library, in a process without this kit.

The code is what stands on the card. A further task joins with a line in CASES.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.hub import push
from tests.hub_server import serve_hub
from tests.lives import one_thread
from tests.test_hub import at
from tests.tiny_models import text_csv, text_rows, tiny_bert, tiny_gpt2
from tests.tiny_vision import shape_folder, tiny_timm, tiny_vit

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """A run, and what of it is pushed."""

    model: str
    method: str = "full"
    what: str = "merged"
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        return self.model in ("bert", "gpt2")


POOLED = {"task.head": "pooled"}
CASES = {
    "text-lora": Case("bert", "lora"),
    "text-lora-adapter": Case("bert", "lora", "adapter"),
    "timm-lora": Case("timm", "lora"),
}
RARER = {
    "text-pooled": Case("bert", "frozen"),
    "timm-lora-adapter": Case("timm", "lora", "adapter"),
    "vit-full": Case("vit"),
    "text-full": Case("bert"),
    "text-partial": Case("bert", "partial"),
    "text-pooled-full": Case("bert", "full", keys=POOLED),
    "text-pooled-lora": Case("bert", "lora", keys=POOLED),
    "text-frozen-native": Case("bert", "frozen", keys={"task.head": "native"}),
    "decoder-lora-adapter": Case("gpt2", "lora", "adapter"),
    "decoder-pooled": Case("gpt2", "frozen"),
    "timm-frozen": Case("timm", "frozen"),
    "timm-partial": Case("timm", "partial"),
    "vit-lora": Case("vit", "lora"),
    "vit-lora-adapter": Case("vit", "lora", "adapter"),
    "vit-frozen": Case("vit", "frozen"),
}


class World:
    """A hub with tiny pretrained networks on it, copies of them here, and data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hub = folder, folder / "hub"
        here = folder / "models"
        tiny_bert(here / "bert", dropout=0)
        tiny_gpt2(here / "gpt2", dropout=0)
        tiny_timm(here / "timm")
        tiny_vit(here / "vit")
        for path in here.iterdir():
            (path / "README.md").write_text("---\nlicense: mit\n---\n")
        shutil.copytree(here, self.hub / "models" / "base")
        self.texts = text_csv(folder / "news.csv")
        self.pictures = shape_folder(folder / "shapes")
        self.rows = {
            True: [row["text"] for row in text_rows(5, seed=3)],
            False: [str(path) for path in sorted(self.pictures.rglob("*.png"))[::11]],
        }
        shutil.copy(self.rows[False][0], folder / "picture.jpg")

    def train(self, case: Case) -> finetune.Run:
        """The run of a case; cases that differ in what is pushed have one run."""
        name = "-".join([case.model, case.method, *case.keys.values()])
        keys: dict[str, Any] = {"epochs": 1, "batch_size": 16, **case.keys}
        keys |= {"model": str(self.folder / "models" / case.model), "method": case.method}
        keys |= {"output.base_model": f"base/{case.model}", "output": str(self.folder / name)}
        if (self.folder / name / "results.json").exists():
            return finetune.Run(self.folder / name)
        task = "text-classification" if case.is_text else "image-classification"
        data = self.texts if case.is_text else self.pictures
        with one_thread():
            return finetune.train(task, data=str(data), **keys)

    def publish_and_read(self, cases: dict[str, Case]) -> dict[str, tuple[Any, Any]]:
        """{case: (what the kit predicts, what the card's code says)}."""
        asked, expected = {}, {}
        with serve_hub(self.hub) as address, at(address, self.hub):
            for name, case in cases.items():
                run, rows = self.train(case), self.rows[case.is_text]
                push(run.path, f"me/{name}", what=case.what)
                card = (self.hub / "models" / "me" / name / "README.md").read_text()
                asked[name] = {"code": CODE.findall(card)[0], "rows": rows}
                expected[name] = run.predict(rows)
            said = self._without_kit(asked, address)
        return {name: (expected[name], said[name]) for name in cases}

    def _without_kit(self, asked: dict[str, Any], address: str) -> dict[str, Any]:
        (self.folder / "cases.json").write_text(json.dumps(asked))
        script = shutil.copy(Path(__file__).with_name("plain_libraries.py"), self.folder)
        environment = {
            **{key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": address,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-I", script, "cases.json", "said.json"]
        subprocess.run(command, cwd=self.folder, env=environment, check=True, timeout=600)
        return json.loads((self.folder / "said.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def answers(world: World) -> dict[str, tuple[Any, Any]]:
    return world.publish_and_read(CASES)


def assert_same(expected: Any, said: Any) -> None:
    """Plain code gives the pipeline's list of one dict, or {label: score}."""
    assert not isinstance(said, str), said
    assert len(said) == len(expected) > 0
    for right, answer in zip(expected, said, strict=True):
        if isinstance(answer, list):
            label, score = answer[0]["label"], answer[0]["score"]
        else:
            label = max(answer, key=answer.__getitem__)
            score = answer[label]
        assert score == pytest.approx(right["score"], abs=1e-4)
        assert label == right["label"]


@pytest.mark.parametrize("name", CASES)
def test_card_shows_code_that_predicts_alike(
    name: str, answers: dict[str, tuple[Any, Any]]
) -> None:
    assert_same(*answers[name])


@pytest.mark.slow
def test_rarer_models_predict_alike(world: World) -> None:
    rest = {name: case for name, case in RARER.items() if name != "text-pooled-lora"}
    for name, answer in world.publish_and_read(rest).items():
        print(name)
        assert_same(*answer)


@pytest.mark.slow
def test_adapter_that_peft_cannot_load_is_refused(world: World) -> None:
    run = world.train(RARER["text-pooled-lora"])
    with pytest.raises(finetune.HubError, match="task.head=native"):
        push(run.path, "me/pooled", what="adapter")
