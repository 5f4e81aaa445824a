"""Whatever the bytes of annotations, an answer: rows, or a DataError."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import DataError
from finetune.task import Task
from tasks import ObjectDetection, Segmentation, TextClassification
from tests.support.tool_exports import FILES, choice, write_export

# The gate sets 12: about a minute for each of the two fuzzers.
FUZZ = int(os.environ.get("FINETUNE_FUZZ", "1"))
FEW = settings(
    max_examples=35 * FUZZ,
    deadline=10_000,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)
MANY = settings(FEW, max_examples=600, derandomize=False)
VALUES: list[Any] = [
    *(None, True, 0, -1, 0.5, 1e308, 10**400, 1 << 31, float("nan"), float("inf")),
    *("", "x", "a.jpg", "../a.jpg", "/", "\0", "\ud800", "é" * 300, "1e999", "1,2;3,4"),
    *([], {}, [[]], [{}], {"a": 1}, [1, 2], [[1, 2]] * 3, [None], ["x"], [[1e308] * 6]),
]
WORDS = [
    *("", "x", "-1", "nan", "inf", "1e999", "9" * 400, "1,2", ";", '"', "<", "&a;", "é"),
    *("\0", "<!DOCTYPE a>", "</image>", "0 0 0 0 0", "1 2 3 4 5 6 7", "a.jpg", "../" * 30),
]
TOKEN = re.compile(r"[\w.+-]+|[^\w\s]")


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of all values inside JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        yield value, key
        if isinstance(each, dict | list):
            yield from spots(each)


@st.composite
def changed_json(draw: st.DrawFn, valid: Any) -> bytes:
    """Draw JSON in which some values are replaced, left out, renamed or repeated."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        if not (places := list(spots(content))):
            break
        container, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["replace", "replace", "drop", "rename", "repeat"]))
        if how == "replace":
            container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif how == "drop":
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container["other" if how == "rename" else f"{key}2"] = container.pop(key)
    return json.dumps(content).encode()


@st.composite
def changed_text(draw: st.DrawFn, valid: str) -> bytes:
    """Draw text in which some words or marks are replaced."""
    for _ in range(draw(st.integers(1, 3))):
        tokens = list(TOKEN.finditer(valid))
        if not tokens:
            break
        token = draw(st.sampled_from(tokens))
        valid = valid[: token.start()] + draw(st.sampled_from(WORDS)) + valid[token.end() :]
    return valid.encode("utf-8", "replace")


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw bytes that differ in a few places, or end early."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.sampled_from([0, 1, 2, 30]))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.sampled_from([len(content), len(content), at]))])


@st.composite
def changed_file(draw: st.DrawFn, files: dict[str, Any]) -> tuple[str, bytes]:
    """Draw a file of an export, and what is in it instead."""
    name = draw(st.sampled_from(sorted(files)))
    content = files[name]
    is_text = isinstance(content, str)
    plain = (content if is_text else json.dumps(content)).encode()
    structure = changed_text(content) if is_text else changed_json(content)
    return name, draw(structure | structure | changed_bytes(plain))


def answer(task: Task, path: Path) -> None:
    """Read and check all rows; only a DataError may come out."""
    for on_error in ("skip", "clip"):
        config = DataConfig(source=str(path), validation=0, test=0, on_error=on_error)
        try:
            splits = open_splits(config, task)
        except DataError as error:
            assert str(error)
        else:
            assert len(splits.train)


def fuzz(name: str, profile: settings, make: Callable[[], Task]) -> None:
    """Read changed files of a format many times."""
    with tempfile.TemporaryDirectory() as folder:
        valid = write_export(Path(folder) / "valid", name)

        @profile
        @given(changed_file(FILES[name]))
        def check(change: tuple[str, bytes]) -> None:
            path = Path(folder) / "changed"
            shutil.copytree(valid, path)
            try:
                (path / change[0]).write_bytes(change[1])
                answer(make(), path)
            finally:
                shutil.rmtree(path)

        check()


@pytest.mark.parametrize("name", FILES)
def test_changed_annotations_are_rows_or_data_errors(name: str) -> None:
    fuzz(name, FEW, ObjectDetection)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("voc", "csv", "createml")])
def test_changed_outlines_are_rows_or_data_errors(name: str) -> None:
    fuzz(name, FEW, Segmentation)


TEXTS = [choice(n, {"text": f"t {n}"}, mood=["up" if n % 2 else "down"]) for n in range(6)]


def fuzz_texts(profile: settings) -> None:
    with tempfile.TemporaryDirectory() as folder:

        @profile
        @given(changed_json(TEXTS) | changed_bytes(json.dumps(TEXTS).encode()))
        def check(content: bytes) -> None:
            path = Path(folder) / "p.json"
            path.write_bytes(content)
            answer(TextClassification(), path)

        check()


def test_changed_choices_are_rows_or_data_errors() -> None:
    fuzz_texts(FEW)


@pytest.mark.slow
@pytest.mark.parametrize("make", [ObjectDetection, Segmentation], ids=["boxes", "masks"])
@pytest.mark.parametrize("name", FILES)
def test_many_changed_annotations_are_rows_or_data_errors(
    name: str, make: Callable[[], Task]
) -> None:
    fuzz(name, MANY, make)


@pytest.mark.slow
def test_many_changed_choices_are_rows_or_data_errors() -> None:
    fuzz_texts(MANY)
