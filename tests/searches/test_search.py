"""Searches on tiny models from the first trial to the results."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from safetensors.torch import load_file

import finetune
from finetune.config.loading import load_config
from finetune.errors import CheckpointError, ConfigError
from finetune.registry import INSTALLED
from finetune.training.recorder import RunJournal
from finetune.tuning.study import SearchStudy
from tests.support.command_line import finetune as command
from tests.support.lives import Killed
from tests.support.tiny_models import text_rows

TRIALS = 5


@pytest.fixture(scope="module")
def words(bert_folder: Path, news_csv: Path, held_csv: Path) -> list[str]:
    words = ["task=text-classification", f"model={bert_folder}", f"data.train={news_csv}"]
    words += [f"data.validation={held_csv}", f"data.test={held_csv}", "batch_size=16"]
    words += ["epochs=4", "precision=fp32", "method=choice(frozen,lora,full)", "rank=choice(2,4)"]
    # Losses have no ties, and differ after an epoch with rates that are this far apart.
    words += ["batching=length"]  # with this order of the rows, two trials get to their end
    return [*words, "lr=log(1e-6,1e-2)", f"trials={TRIALS}", "train.best=-loss"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("search") / "news"
    assert command("search", *words, f"search.dir={folder}") == 0
    return folder


def trials_of(folder: Path) -> list[dict[str, Any]]:
    table = pandas.read_parquet(folder / "trials.parquet").drop(columns=["seconds", "folder"])
    return json.loads(table.to_json(orient="records", double_precision=15))


def weights(folder: Path) -> dict[str, list[float]]:
    files = sorted(folder.glob("trial-*/final/*.safetensors"))
    assert files
    return {
        f"{path.parts[-3]} {name}": tensor.flatten().tolist()
        for path in files
        for name, tensor in load_file(path).items()
    }


def test_each_trial_is_a_run_and_only_the_best_is_measured_on_test(searched: Path) -> None:
    trials = trials_of(searched)
    assert len(trials) == TRIALS
    assert {trial["state"] for trial in trials} == {"complete", "pruned"}
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = min(complete, key=lambda trial: trial["loss"])
    assert {trial["evaluations"] for trial in complete} == {4}, "one an epoch"
    for trial in complete:
        run = finetune.Run(searched / f"trial-{trial['trial']:03d}")
        assert run.metrics["validation"]["loss"] == pytest.approx(trial["loss"])
        assert ("test" in run.metrics) is (trial == best)
    assert all((trial["rank"] is not None) is (trial["method"] == "lora") for trial in trials)
    pruned = next(trial["trial"] for trial in trials if trial["state"] == "pruned")
    assert not (searched / f"trial-{pruned:03d}" / "final").exists()


def test_results_name_the_best_trial(
    searched: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (searched / "journal.jsonl").read_bytes()
    assert command("search", *words, f"search.dir={searched}") == 0
    out = capsys.readouterr().out
    assert (searched / "journal.jsonl").read_bytes() == before, "finished trials were run again"
    assert f"finetune train {searched / 'best.yaml'}" in out
    assert re.search(r"best: trial \d, validation loss \d\.\d+, test \d\.\d+", out)
    assert {path.name for path in searched.glob("*.png")} >= {"history.png", "keys.png"}
    assert command("compare", str(searched)) == 0
    assert f"trial-{TRIALS - 1:03d}" in capsys.readouterr().out


def test_best_yaml_is_the_config_of_the_best_trial(searched: Path) -> None:
    loaded = load_config(searched / "best.yaml", [], INSTALLED)
    assert loaded.config.output.dir is None
    best = min(
        (trial for trial in trials_of(searched) if trial["state"] == "complete"),
        key=lambda trial: trial["loss"],
    )
    stored = yaml.safe_load((searched / f"trial-{best['trial']:03d}" / "config.yaml").read_text())
    assert loaded.config.optim.lr == best["lr"] == stored["optim"]["lr"]
    assert loaded.config.method.name == best["method"] == stored["method"]["name"]


def test_a_search_killed_at_any_moment_goes_on_with_the_same_trials(
    searched: Path, words: list[str], tmp_path: Path
) -> None:
    for owner, name, calls in (
        (RunJournal, "save", 2),  # in the middle of the first trial
        (SearchStudy, "complete", 1),  # between its results and the journal
        (SearchStudy, "report", 3),
        (SearchStudy, "prune", 1),
        (RunJournal, "evaluate_on", 3),
    ):
        with pytest.MonkeyPatch.context() as patch:
            kill_at_call(patch, owner, name, calls)
            with pytest.raises(Killed):
                command("search", *words, f"search.dir={tmp_path}/news")
    assert command("search", *words, f"search.dir={tmp_path}/news") == 0
    assert trials_of(tmp_path / "news") == trials_of(searched)
    assert weights(tmp_path / "news") == weights(searched)


def kill_at_call(patch: pytest.MonkeyPatch, owner: type, name: str, calls: int) -> None:
    """Simulate SIGKILL when a method is called for the n-th time."""
    method, count = getattr(owner, name), 0

    def counted(*args: Any, **keys: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            raise Killed
        return method(*args, **keys)

    patch.setattr(owner, name, counted)


def statistics(path: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def test_statistics_that_were_lost_are_measured_again(
    searched: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(searched, folder)
    lost, damaged = sorted((folder / "measured").iterdir())[:2]
    before = [statistics(path) for path in (lost, damaged)]
    lost.unlink()
    damaged.write_bytes(b"damaged")
    assert command("search", *words, f"search.dir={folder}") == 0
    assert capsys.readouterr().out.count("its statistics are lost, and measured again") == 2
    assert [statistics(path) for path in (lost, damaged)] == before
    assert trials_of(folder) == trials_of(searched)


def test_another_search_in_the_same_folder_is_refused(searched: Path, words: list[str]) -> None:
    keys = dict(word.split("=", 1) for word in words) | {"batch_size": 8, "search.dir": searched}
    with pytest.raises(CheckpointError, match="contains another search .train.batch_size: 16"):
        finetune.search(**keys)


def test_the_folder_of_a_run_is_refused(finished_run: Path, words: list[str]) -> None:
    keys = dict(word.split("=", 1) for word in words) | {"search.dir": finished_run}
    with pytest.raises(CheckpointError, match="contains a run; name another folder"):
        finetune.search(**keys)


def test_search_from_python_with_rows_seeds_and_no_time(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"data": text_rows(40), "validation": text_rows(24), "model": str(bert_folder)}
    keys |= {"method": "frozen", "epochs": 2, "seeds": 2, "pruner": "none"}
    keys |= {"search": {"dir": str(tmp_path / "rows")}, "space": {"lr": [1e-3, 1e-2]}}
    with pytest.raises(finetune.FinetuneError, match="no trial is complete.*with more time"):
        finetune.search("text-classification", **keys, time="0.001s")
    found = finetune.search("text-classification", **keys)
    assert found.trials["state"].tolist() == ["complete"] * 2
    assert found.best.path == tmp_path / "rows" / f"trial-{found.best_trial:03d}"
    assert {path.name for path in found.path.glob("trial-*")} == {
        *("trial-000", "trial-000-seed-1", "trial-001", "trial-001-seed-1")
    }
    runs = [finetune.Run(found.path / f"trial-000{ending}") for ending in ("", "-seed-1")]
    scores = [run.metrics["validation"]["accuracy"] for run in runs]
    assert found.trials["accuracy"][0] == pytest.approx(sum(scores) / 2)
    assert "luck of the draw: the best of 2 is expected" in capsys.readouterr().out
    assert "made in Python" in (found.path / "best.yaml").read_text()


@pytest.mark.parametrize(("warmup", "grace"), [(0, 2), (5, 5)])
def test_no_trial_is_pruned_in_the_warmup_and_the_first_ninth_of_its_steps(
    bert_folder: Path, news_csv: Path, held_csv: Path, tmp_path: Path, warmup: int, grace: int
) -> None:
    found = finetune.search(
        "text-classification",
        data={"train": str(news_csv), "validation": str(held_csv)},
        model=str(bert_folder),
        method="frozen",
        lr=[1e-6, 1e-2],
        optim={"warmup_steps": warmup},
        train={"max_steps": 18, "evaluate_every": 1, "best": "-loss"},
        search={"dir": str(tmp_path / "grace")},
    )
    pruned = found.trials[found.trials["state"] == "pruned"]
    assert pruned["evaluations"].min() == grace


def test_a_trial_that_diverges_does_not_end_the_search(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    found = finetune.search(
        "text-classification",
        data=str(news_csv),
        validation=0.3,
        model=str(bert_folder),
        method="full",
        lr=[1e30, 1e-3],
        epochs=1,
        precision="fp32",
        search={"dir": str(tmp_path / "diverging")},
    )
    assert sorted(found.trials["state"]) == ["complete", "failed"]
    assert "gradient is not finite" in "".join(found.trials["reason"])


def test_faults_of_all_trials_end_the_search(bert_folder: Path, news_csv: Path) -> None:
    keys: dict[str, Any] = {"data": str(news_csv), "model": str(bert_folder)}
    keys |= {"lr": [1e-3, 1e-2], "search": {"dir": str(news_csv.parent / "never")}}
    with pytest.raises(ConfigError, match="ranks its trials by a validation split"):
        finetune.search("text-classification", **keys, validation=0, test=0.2)


def test_search_without_optuna_says_what_to_install(
    bert_folder: Path, news_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    keys: dict[str, Any] = {"data": str(news_csv), "model": str(bert_folder), "rank": [2, 4]}
    with pytest.raises(ConfigError, match=r"pip install 'finetune-kit\[search\]'"):
        finetune.search("text-classification", **keys)
