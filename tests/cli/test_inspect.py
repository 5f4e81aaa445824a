"""`finetune inspect`: it says what `train` would do, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows


@pytest.fixture
def words(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A run, said on the command line from an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ["task=text-classification", f"model={bert_folder}", f"data={news_csv}"]


def files(*folders: Path) -> dict[Path, int]:
    """Every file with the time of its last change."""
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_one_epoch_and_a_small_network_are_told_as_what_they_are(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("inspect", *words, "method=full", "epochs=1") == 0
    output = capsys.readouterr().out
    assert "an epoch, 1 epoch\n" in output
    assert "only 0.0" in output
    assert "only 0 M" not in output


@pytest.mark.parametrize("method", ["full", "lora", "partial", "frozen"])
def test_a_run_is_shown_and_nothing_is_written(
    method: str, words: list[str], feature_cache: Path, bert_folder: Path, capsys: Any
) -> None:
    before = files(Path.cwd(), feature_cache, bert_folder)
    Path("own.yaml").write_text("optim: {weight_decay: 0.5}\n")
    before = files(Path.cwd(), feature_cache, bert_folder)
    assert (
        finetune(
            "inspect", "own.yaml", *words, f"method={method}", "batch_size=16", "precision=fp32"
        )
        == 0
    )
    assert files(Path.cwd(), feature_cache, bert_folder) == before
    output = capsys.readouterr().out
    lines = {line.split("=")[0].strip(): line for line in output.splitlines() if "=" in line}
    assert lines["optim.weight_decay"].split() == ["optim.weight_decay=0.5", "own.yaml"]
    assert lines["train.batch_size"].endswith("command line")
    assert lines["train.seed"].endswith("default")
    assert lines["task.label"].endswith("chosen, see below")
    assert f"usual for method={method}" in lines["train.epochs"]
    assert "label: column 'label', by its name" in output
    assert "[CLS]" in output
    assert "inputs.input_ids: int64 [16, " in output
    assert "float32 [16, 3]" in output
    assert "MiB weights" in output
    assert ("features, once" in output) == (method == "frozen")
    assert output.endswith("nothing was trained, nothing was written\n")


def test_labels_are_counted_where_rows_have_several(words: list[str], capsys: Any) -> None:
    labels = [["sport", "tech"], ["business", "tech"]] * 6
    rows = [{**row, "label": own} for row, own in zip(text_rows(12), labels, strict=True)]
    Path("several.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert finetune("inspect", *words, "method=full", "data=several.jsonl") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "labels in train" in line)
    assert "3 labels in train: tech " in said
    assert "sport " in said


def test_the_untrained_loss_is_that_of_the_first_evaluation(words: list[str], capsys: Any) -> None:
    """One row a class and equal logits would give ln 3; a head that starts far off is a fault."""
    assert finetune("inspect", *words, "method=frozen") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "  loss  " in line)
    assert 0.5 < float(said.split()[2].strip(",")) < 3


def test_memory_is_counted_from_what_is_trained(words: list[str], capsys: Any) -> None:
    found = {}
    for optimizer in ("adamw", "sgd"):
        assert finetune("inspect", *words, "method=full", f"optim={optimizer}") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "MiB weights" in line)
        numbers = [float(word) for word in line.split() if word[0].isdigit()]
        found[optimizer] = dict(zip(("weights", "gradients", "optimizer"), numbers, strict=True))
    assert found["adamw"]["gradients"] == found["adamw"]["weights"]
    assert found["adamw"]["optimizer"] > found["sgd"]["optimizer"]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("optim=adamww", "did you mean 'adamw'?"),
        ("method.blocks=9", "method=lora has no such key"),
        ("task.text=body", "there is no column 'body'"),
        ("model=./nowhere", "no such file"),
    ],
)
def test_faults_are_those_of_train(change: str, remedy: str, words: list[str], capsys: Any) -> None:
    assert finetune("inspect", *words, change) == 2
    said = capsys.readouterr().err
    assert finetune("train", *words, change) == 2
    assert capsys.readouterr().err == said


def test_what_has_no_pictures_cannot_be_drawn(
    words: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert finetune("inspect", *words, "--draw", "sheet.png") == 2
    assert "--draw sheet.png: text-classification has nothing to look at" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()
