"""`train.semi`: from data.unlabeled to a finished run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.batching.data_loader import Split
from finetune.batching.joined_rows import join_splits
from finetune.batching.row_cache import StoredFeatures
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows
from tests.support.tiny_vision import shape_folder, tiny_timm


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def words(bert_folder: Path, held_csv: Path, tmp_path: Path) -> list[str]:
    few, many = text_rows(18), text_rows(60, seed=3)
    data = write(tmp_path / "few.csv", few)
    pool = write(tmp_path / "pool.csv", [{"text": row["text"]} for row in [*many, *few[:5]]])
    return [
        *("train", "task=text-classification", f"model={bert_folder}", "method=frozen", "epochs=2"),
        *(f"data={data}", f"data.validation={held_csv}", f"data.unlabeled={pool}"),
        *("batch_size=8", "precision=fp32", "output.report=false"),
    ]


def test_self_training_joins_rows_or_falls_back_and_says_so(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert finetune(*words, "semi=self-training", f"output={run}") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "unlabeled: 60 rows" in output
    assert "5 left out that equal another row or one of a split" in output
    assert "cross-validated on 18 labeled rows: accuracy" in output
    assert set(json.loads((run / "run.json").read_text())["data"]) == {
        *("train", "validation", "unlabeled")
    }
    assert finetune(*words, "semi=self-training", f"output={run}") == 0
    assert "already finished" in capsys.readouterr().out

    pool = Path(next(word for word in words if "unlabeled" in word).partition("=")[2])
    pool.write_text(pool.read_text() + "one more text\n")
    assert finetune(*words, "semi=self-training", f"output={run}") == 2
    assert "the rows of unlabeled have changed" in capsys.readouterr().err


def test_pseudo_labeled_rows_are_trained_on(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = property(lambda self: True)  # random features hold no clusters that could help
    monkeypatch.setattr("finetune.semisupervised.held_out_check.HeldOutCheck.passed", passed)
    assert finetune(*words, "semi=label-spreading", f"output={tmp_path / 'run'}") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "of 60 unlabeled rows joined train with pseudo-labels" in output
    joined = int(output.split("train.semi=label-spreading: ")[1].split()[0])
    assert 40 <= joined <= 60
    assert f"({-(-(18 + joined) // 8)} per epoch, 2 epochs)" in output
    card = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert f"{joined} of the {18 + joined} rows that were trained on have pseudo-labels" in card


def test_inspect_counts_the_rows_that_will_join_train(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("inspect", *words[1:], "semi=self-training") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "added rows about 48 of 60 unlabeled rows with pseudo-labels" in output
    assert "18 steps then" in output
    assert "training, 18 steps:" in output


def test_the_pool_is_one_table_whose_unread_columns_are_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = write(tmp_path / "more.csv", text_rows(9, seed=5))
    words += ["semi=self-training"]
    assert finetune("inspect", *words[1:], f"data.unlabeled={pool}") == 0
    assert "unlabeled: 9 rows" in (output := " ".join(capsys.readouterr().out.split()))
    assert "columns not read: label" in output
    folder = tmp_path / "pool"
    folder.mkdir()
    for split in ("train", "test"):
        shutil.copy(pool, folder / f"{split}.csv")
    assert finetune("inspect", *words[1:], f"data.unlabeled={folder}") == 2
    assert "give the file or folder of one" in " ".join(capsys.readouterr().err.split())


def test_semi_needs_unlabeled_rows_a_frozen_backbone_and_labels(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {
        "semi=gan,method=lora": "which method=lora changes",
        "semi=gan,contrastive=3": "which method.contrastive changes",
        "": "nothing uses these rows; add train.semi=self-training",
        "semi=gan,data.unlabeled=null": "needs rows without labels; add data.unlabeled=FILE",
        "semi=gan,cache=off": "needs cached features",
        "semi=gan,data.unlabeled=missing.csv": "missing.csv",
    }
    for keys, message in faults.items():
        assert finetune(*words, *filter(None, keys.split(","))) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_class_of_one_row_is_said_before_features_of_the_pool_are_computed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "one.csv", [*text_rows(18), {"text": "a row", "label": "single"}])
    words = [word for word in words if not word.startswith(("data=", "data.validation="))]
    keys = (f"data={data}", "data.validation=0", "semi=gan", f"output={tmp_path / 'run'}")
    assert finetune(*words, *keys) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "train.semi=gan: not used, train stays as it is: a class has a single" in output
    assert "features of unlabeled" not in output


@pytest.mark.parametrize("keys", ["semi=gan", "synthetic=gan", "synthetic=smote"])
@pytest.mark.parametrize("kind", ["several", "number"])
def test_rows_without_one_class_are_refused_before_the_network_is_loaded(
    kind: str,
    keys: str,
    bert_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = shutil.copytree(bert_folder, tmp_path / "network")
    (network / "model.safetensors").write_bytes(b"no weights")
    cells = ["red; blue", "red", "blue; green"] if kind == "several" else ["1.5", "2.25", "7.5"]
    rows = [{"text": f"text {n}", "label": cells[n % 3]} for n in range(18)]
    pool = write(tmp_path / "pool.csv", [{"text": f"more {n}"} for n in range(9)])
    words = [f"data={write(tmp_path / 'rows.csv', rows)}", f"model={network}"]
    words += [f"data.unlabeled={pool}"] if "semi" in keys else []
    command = ("train", "task=text-classification", "method=frozen", "data.validation=0")
    assert finetune(*command, *words, keys, f"output={tmp_path / 'run'}") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"train.{keys}: only for rows with exactly one class, which" in error


@pytest.mark.slow
def test_fixmatch_reads_augmented_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("train", "task=image-classification", f"model={tiny_timm(tmp_path / 'timm')}"),
        *("method=frozen", "epochs=1", "data.validation=0", "precision=fp32"),
        *(f"data={shape_folder(tmp_path / 'few', 12)}", "semi=fixmatch", "output.report=false"),
        f"data.unlabeled={shape_folder(tmp_path / 'pool', 21, seed=4)}",
    ]
    assert finetune(*words, f"output={tmp_path / 'run'}", "augmentation=light") == 0
    assert "cross-validated on 12 labeled rows" in " ".join(capsys.readouterr().out.split())


def test_joined_splits_give_rows_features_and_targets_in_the_order_asked_for() -> None:
    def split(name: str, first: int, count: int) -> Split:
        rows = [{"text": f"{name}{n}", "label": f"l{n % 2}"} for n in range(count)]
        values = torch.arange(first, first + count).float()[:, None]
        samples = [{"target": n % 2} if name == "a" else {} for n in range(count)]
        table = Table(rows)
        return Split(name, table, np.arange(count), StoredFeatures([{"x": values}], samples))

    joined = join_splits(split("a", 0, 4), split("b", 10, 5), [4, 1], [0, 1], ["label"])
    assert len(joined) == 6
    assert joined.features is not None
    order = [5, 0, 4, 3]
    assert joined.features.take(order)["x"].flatten().tolist() == [11.0, 0.0, 14.0, 3.0]
    assert joined.features.take([4], [2])["x"].item() == 14.0
    assert [sample["target"] for sample in joined.features.samples(order)] == [1, 0, 0, 1]
    assert [row["text"] for row in joined.rows.__getitems__(order)] == ["b1", "a0", "b4", "a3"]
    assert [row["label"] for row in joined.rows.__getitems__(order)] == ["l1", "l0", "l0", "l1"]
    assert joined.lengths.tolist() == [0, 1, 2, 3, 4, 1]


class Table(list[dict[str, str]]):
    def __getitems__(self, keys: list[int]) -> list[dict[str, str]]:
        return [self[key] for key in keys]


@pytest.mark.slow
def test_a_resumed_run_gets_the_same_rows_and_weights(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = property(lambda self: True)
    monkeypatch.setattr("finetune.semisupervised.held_out_check.HeldOutCheck.passed", passed)
    run = tmp_path / "run"
    words += ["semi=self-training", "save_every=5", "keep_checkpoints=9", f"output={run}"]
    assert finetune(*words) == 0
    weights = load_file(run / "final" / "head.safetensors")
    for checkpoint in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    (run / "results.json").unlink()
    assert finetune(*words) == 0
    again = load_file(run / "final" / "head.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
