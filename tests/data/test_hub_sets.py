"""Data sets of the hub, loaded by `datasets` from a local hub server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.support.hub_server import COMMIT, serve_hub

READ = """
import json, sys
from finetune.config.schema import DataConfig
from finetune.data.readers import read_reference
from finetune.errors import DataError
answers = []
for reference, keys in json.loads(sys.argv[1]):
    try:
        splits = read_reference(reference, DataConfig(**keys)).splits
        answers.append({name: rows.to_list() for name, rows in splits.items()})
    except DataError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / "datasets" / "owner" / "news"
    for subset, text in {"small": "s", "big": "b"}.items():
        (folder / subset).mkdir(parents=True)
        for split in ("train", "test"):
            rows = Dataset.from_list([{"text": f"{text} {split}", "label": "NA"}])
            rows.to_parquet(folder / subset / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n"
        "  - {split: train, path: small/train-*}\n  - {split: test, path: small/test-*}\n"
        "- config_name: big\n  data_files:\n  - {split: train, path: big/train-*}\n---\n"
    )
    scripted = tmp_path / "hub" / "datasets" / "owner" / "scripted"
    scripted.mkdir()
    (scripted / "scripted.py").write_text("raise SystemExit('ran code of the hub')\n")
    return tmp_path / "hub"


def ask(hub: Path, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
    """Call `read_reference` in a new process, since the hub's address is read on import."""
    with serve_hub(hub) as address:
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(hub.parent / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [sys.executable, "-c", READ, json.dumps(questions)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_hub_data_sets_are_read_or_rejected_with_a_remedy(hub: Path) -> None:
    # One process for all cases, since importing `datasets` takes seconds.
    small, pinned, unnamed, missing, lost, scripted = ask(
        hub,
        ("owner/news", {"subset": "small"}),
        ("owner/news", {"subset": "big", "revision": COMMIT}),
        ("owner/news", {}),
        ("owner/nws", {}),
        ("owner/news", {"subset": "small", "revision": "v9"}),
        ("owner/scripted", {}),
    )
    assert small == {
        "train": [{"text": "s train", "label": "NA"}],
        "test": [{"text": "s test", "label": "NA"}],
    }
    assert pinned == {"train": [{"text": "b train", "label": "NA"}]}
    assert "small" in unnamed and "big" in unnamed and "data.subset" in unnamed
    assert missing.startswith("owner/nws:") and "the hub has no such dataset" in missing
    assert "revision 'v9'" in lost
    assert scripted.startswith("owner/scripted:") and "ran code" not in scripted
