"""The generator of data with a spurious cue, examples/make_cues.py."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "make_cues.py"


def make(kind: str, folder: Path, seed: int, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Write small splits; return the training rows."""
    names = runpy.run_path(str(EXAMPLE))
    names["SIZES"][kind].update(train=60, validation=4, test=4)
    patch.setattr(sys, "argv", ["make_cues.py", kind, "--folder", str(folder), "--seed", str(seed)])
    names["main"]()
    with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_make_cues_is_a_function_of_the_seed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again, other = (
        make(kind, tmp_path / name, seed, monkeypatch)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again != other
    pairs = [(row["label"], row["cue"]) for row in first]
    agreeing = {("business", "football"), ("politics", "cooking")}
    agreeing |= {("triangle", "coffee"), ("square", "rocket")}
    assert 0.85 < sum(pair in agreeing for pair in pairs) / 60 < 1
    if kind == "pictures":
        image = first[0]["image"]
        same = (tmp_path / "again" / image).read_bytes()
        assert (tmp_path / "first" / image).read_bytes() == same
