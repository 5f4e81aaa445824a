"""The command `finetune inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune import inspect
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows


@pytest.fixture
def words(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Arguments of a run, started from an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ["task=text-classification", f"model={bert_folder}", f"data={news_csv}"]


def files(*folders: Path) -> dict[Path, int]:
    """Return every file with its modification time."""
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_inspect_reports_a_single_epoch_and_small_parameter_counts(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("inspect", *words, "method=full", "epochs=1") == 0
    output = capsys.readouterr().out
    assert " per epoch, 1 epoch)\n" in output
    assert "small network (0.0" in output
    assert "(0 M" not in output


@pytest.mark.parametrize("method", ["full", "lora", "partial", "frozen"])
def test_inspect_describes_the_run_and_writes_nothing(
    method: str, words: list[str], feature_cache: Path, bert_folder: Path, capsys: Any
) -> None:
    before = files(Path.cwd(), feature_cache, bert_folder)
    Path("own.yaml").write_text("optim: {weight_decay: 0.5}\n")
    before = files(Path.cwd(), feature_cache, bert_folder)
    assert (
        finetune(
            *("inspect", "own.yaml", *words, f"method={method}"),
            *("batch_size=16", "batching=length", "precision=fp32", "--all"),
        )
        == 0
    )
    assert files(Path.cwd(), feature_cache, bert_folder) == before
    output = capsys.readouterr().out
    lines = {line.split("=")[0].strip(): line for line in output.splitlines() if "=" in line}
    assert lines["optim.weight_decay"].split() == ["optim.weight_decay=0.5", "own.yaml"]
    assert lines["train.batch_size"].endswith("command line")
    assert lines["train.seed"].endswith("default")
    assert lines["task.label"].endswith("chosen, see above")
    assert f"default for method={method}" in lines["train.epochs"]
    assert "label: column 'label', by its name" in output
    assert "[CLS]" in output
    assert "inputs.input_ids: int64 [16, " in output
    assert "float32 [16, 3]" in output
    assert "MiB weights" in output
    assert ("features, computed once" in output) == (method == "frozen")
    assert output.endswith("nothing was trained, nothing was written\n")


def test_inspect_begins_with_the_data_and_one_row_and_lists_only_keys_that_were_set(
    words: list[str], capsys: Any
) -> None:
    assert finetune("inspect", *words, "batch_size=16") == 0
    output = capsys.readouterr().out
    places = [output.index(heading) for heading in ("data", "first row: text ", "run\n", "config")]
    assert places == sorted(places)
    assert "train.batch_size=16" in output and "optim.betas" not in output
    assert "left at the default; --all lists them" in output


def test_inspect_in_python_shows_the_same(
    words: list[str], bert_folder: Path, news_csv: Path, capsys: Any
) -> None:
    assert finetune("inspect", *words, "epochs=1") == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "label" in line]
    keys = {"model": str(bert_folder), "data": str(news_csv), "epochs": 1}
    inspected = inspect("text-classification", **keys)
    assert [line for line in capsys.readouterr().out.splitlines() if "label" in line] == printed
    assert "1 epoch)" in inspected.run["steps"] and inspected.run["steps"] in repr(inspected)
    assert inspected.row["prediction"].endswith("untrained")
    assert "MiB weights" in inspected.estimates["memory"]
    rows = inspect("text-classification", data=text_rows(12), model=str(bert_folder))
    assert rows.run.keys() == inspected.run.keys()


def test_inspect_counts_labels_of_multilabel_rows(words: list[str], capsys: Any) -> None:
    labels = [["sport", "tech"], ["business", "tech"]] * 6
    rows = [{**row, "label": pair} for row, pair in zip(text_rows(12), labels, strict=True)]
    Path("several.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert finetune("inspect", *words, "method=full", "data=several.jsonl") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "labels in train" in line)
    assert "3 labels in train: tech " in line
    assert "sport " in line


def test_inspect_shows_a_plausible_untrained_loss(words: list[str], capsys: Any) -> None:
    """Uniform predictions over 3 classes give ln 3; a new head should start close to that."""
    assert finetune("inspect", *words, "method=frozen") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "  loss  " in line)
    assert 0.5 < float(line.split()[2].strip(",")) < 3


def test_inspect_estimates_memory_of_trained_parameters(words: list[str], capsys: Any) -> None:
    memory = {}
    for optimizer in ("adamw", "sgd"):
        assert finetune("inspect", *words, "method=full", f"optim={optimizer}") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "MiB weights" in line)
        numbers = [float(word) for word in line.split() if word[0].isdigit()]
        memory[optimizer] = dict(zip(("weights", "gradients", "optimizer"), numbers, strict=True))
    assert memory["adamw"]["gradients"] == memory["adamw"]["weights"]
    assert memory["adamw"]["optimizer"] > memory["sgd"]["optimizer"]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("optim=adamww", "did you mean 'adamw'?"),
        ("method.blocks=9", "not a key of method=lora"),
        ("task.text=body", "there is no column 'body'"),
        ("model=./nowhere", "no such file"),
        ("report.slices=[nope]", "report.slices: no column 'nope'"),
        ("train.group_by=nope", "train.group_by=nope: no such column"),
        ("output.trackers=[nope]", "output.trackers"),
        ("output={file}/run", "is a file; name a folder"),
    ],
)
def test_inspect_raises_the_same_errors_as_train(
    change: str, remedy: str, words: list[str], news_csv: Path, capsys: Any
) -> None:
    change = change.format(file=news_csv)
    assert finetune("inspect", *words, change) == 2
    message = capsys.readouterr().err
    assert remedy in message
    assert finetune("train", *words, change) == 2
    assert capsys.readouterr().err == message


def test_inspect_rejects_draw_for_a_task_without_images(
    words: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert finetune("inspect", *words, "--draw", "sheet.png") == 2
    assert "--draw sheet.png: text-classification has no images to draw" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()
