"""`finetune.evaluate`: metrics on rows from any source, and rejected arguments."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

import finetune
from tests.support.tiny_models import text_rows


@pytest.fixture(scope="module")
def trained(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.Run:
    folder = tmp_path_factory.mktemp("evaluate")
    return finetune.train(
        "text-classification",
        data={"train": text_rows(40), "test": text_rows(20, seed=5)},
        model=str(bert_folder),
        output=str(folder / "run"),
        method="full",  # merged weights of LoRA differ in their last bit on some processors
        epochs=1,
        validation=0,
        precision="fp32",
    )


def test_evaluate_equals_the_metrics_of_training(trained: finetune.Run) -> None:
    assert trained.evaluate(text_rows(20, seed=5)) == trained.metrics["test"]


def test_evaluate_accepts_data_frames_and_files(trained: finetune.Run, tmp_path: Path) -> None:
    frame = pandas.DataFrame(text_rows(20, seed=5))
    frame.to_csv(tmp_path / "rows.csv", index=False, sep=";")
    assert finetune.evaluate(trained.path, frame) == trained.metrics["test"]
    metrics = finetune.evaluate(trained.path, str(tmp_path / "rows.csv"), delimiter=";")
    assert metrics == trained.metrics["test"]


def test_evaluate_splits_the_metrics_by_a_column(trained: finetune.Run) -> None:
    rows = text_rows(20, seed=5)
    frame = pandas.DataFrame([{**row, "source": "ab"[n % 2]} for n, row in enumerate(rows)])
    metrics = trained.evaluate(frame, by="source")
    assert metrics == trained.metrics["test"]
    assert {name: group["rows"] for name, group in metrics.groups.items()} == {"a": 10, "b": 10}
    accuracies = [group["accuracy"] for group in metrics.groups.values()]
    assert sum(accuracies) / 2 == pytest.approx(metrics["accuracy"])
    assert "<th>a</th>" in metrics._repr_html_()
    with pytest.raises(finetune.DataError, match="by=sauce: no such column; did you mean 'source'"):
        trained.evaluate(frame, by="sauce")


def test_evaluate_measures_slices_and_groups(trained: finetune.Run) -> None:
    pytest.importorskip("fairlearn")
    rows = text_rows(60, seed=5)
    frame = pandas.DataFrame([{**row, "source": "ab"[n % 2]} for n, row in enumerate(rows)])
    metrics = trained.evaluate(frame, slices=["source"], groups=["source"], by="source")
    assert list(metrics.slices["column"]) == ["source", "source"]
    assert set(metrics.slices["value"]) == {"a", "b"}
    worst = metrics.slices.iloc[0]
    assert worst["gap"] <= 0
    assert worst["gap_low"] <= worst["gap"] <= worst["gap_high"]
    assert worst["result"] == pytest.approx(metrics.groups[worst["value"]]["accuracy"])
    assert set(metrics.differences["rate"]) >= {"selection rate"}
    assert "gap_low" in metrics._repr_html_()
    plain = finetune.evaluate(trained, frame)
    assert plain == metrics
    assert len(plain.slices) == len(plain.differences) == 0
    with pytest.raises(
        finetune.DataError, match="report.slices: no column .sauce.; did you mean 'source'"
    ):
        trained.evaluate(frame, slices=["sauce"])
    with pytest.raises(finetune.ConfigError, match="report.slices.*7"):
        trained.evaluate(frame, slices=7)
    with pytest.raises(finetune.ConfigError, match="slice: unknown keyword; did you mean 'slices'"):
        trained.evaluate(frame, slice=["source"])


def test_evaluate_prints_the_precision(
    trained: finetune.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.evaluate(text_rows(20, seed=5))
    assert "cpu, 1 process, fp32: as in training" in capsys.readouterr().out


def test_evaluate_needs_a_split_if_there_are_several(trained: finetune.Run) -> None:
    both = {"first": text_rows(20, seed=5), "second": text_rows(8)}
    assert trained.evaluate(both, split="first") == trained.metrics["test"]
    with pytest.raises(finetune.DataError, match=r"has several splits; .*first, second"):
        trained.evaluate(both)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_sze": 4}, "batch_sze: unknown keyword; did you mean 'batch_size'"),
        ({"labels": ["a"]}, "labels: does not affect predictions of text-classification"),
        ({"on_error": "ignore"}, "data.on_error: 'ignore': should be 'stop', 'skip' or 'clip'"),
    ],
)
def test_evaluate_rejects_keys_without_effect(
    keys: dict[str, object], message: str, trained: finetune.Run
) -> None:
    with pytest.raises(finetune.ConfigError) as caught:
        trained.evaluate(text_rows(4), **keys)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_evaluate_reads_columns_of_other_names(trained: finetune.Run) -> None:
    rows = [{"review": row["text"], "topic": row["label"]} for row in text_rows(20, seed=5)]
    keys = {"task.text": "review", "task.label": "topic"}
    assert finetune.evaluate(trained.path, rows, **keys) == trained.metrics["test"]
    with pytest.raises(finetune.DataError, match=r"no column 'text'; choose from: review, topic"):
        finetune.evaluate(trained.path, rows)
