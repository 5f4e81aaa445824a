"""Runs to damage: a finished one and one that was stopped, trained in child processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.limited import call_limited, run_command, run_limited
from tests.support.tiny_models import text_csv, tiny_bert


@dataclass(frozen=True)
class Runs:
    """The folders of a finished and of a stopped run, their data, and the words that train them."""

    finished: Path
    stopped: Path
    data: Path
    words: list[str]

    @property
    def model(self) -> Path:
        """The pretrained network."""
        return self.data.parent / "bert"

    def changed_model(self, folder: Path, key: str, value: object) -> Path:
        """Copy the pretrained network to `folder`, with another value in its config.json."""
        shutil.copytree(self.model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("damaged")
    model, data = folder / "bert", folder / "news.csv"
    words = ["train", "task=text-classification", f"model={model}", "method=full", "epochs=1"]
    words += [f"data={data}", "data.validation=0.2", "batch_size=8", "precision=fp32"]
    words += ["save_every=3"]
    made = Runs(folder / "finished", folder / "stopped", data, words)

    def make_sources() -> None:
        tiny_bert(model)
        text_csv(data)

    def stop_at_the_first_checkpoint() -> None:
        from finetune.training.recorder import RunJournal

        save = RunJournal.save

        def stop(journal: RunJournal, progress: object) -> None:
            save(journal, progress)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGTERM)

        RunJournal.save = stop  # type: ignore[method-assign, assignment]
        run_command([*words, f"output={made.stopped}"])

    assert call_limited(make_sources).code == 0
    assert run_limited([*words, f"output={made.finished}"]).code == 0
    assert call_limited(stop_at_the_first_checkpoint).code == 143
    return made
