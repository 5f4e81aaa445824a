"""The Python interface: finetune.train and finetune.Run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

import finetune
from finetune.errors import CheckpointError, ConfigError, DataError, ModelError
from tasks import TextClassification
from tests.support.tiny_models import LABELS, text_rows

ROWS = text_rows(24)
FRESH = text_rows(6, seed=9)

# `evaluate` loads a module from a folder, NAME/NAME.py, without a hub.
EVALUATE_MODULE = """
import datasets
import evaluate


class Hits(evaluate.Metric):
    def _info(self):
        ints = datasets.Value("int32")
        features = datasets.Features({"predictions": ints, "references": ints})
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references):
        hits = sum(p == r for p, r in zip(predictions, references, strict=True))
        return {"hits": hits, "rows": len(references), "kind": "text, which is not a metric"}
"""


Train = Callable[..., finetune.Run]


@pytest.fixture
def train(bert_folder: Path, tmp_path: Path) -> Train:
    """finetune.train with 2 steps of 12 rows each, into `tmp_path/run`."""

    def train(data: Any, task: Any = "text-classification", **keys: Any) -> finetune.Run:
        keys = {"output": str(tmp_path / "run"), "model": str(bert_folder), **keys}
        return finetune.train(
            task, data=data, batch_size=12, max_steps=2, log_every=1, method="full", **keys
        )

    return train


@pytest.fixture(scope="module")
def run(lora_run: Path) -> finetune.Run:
    return finetune.Run(lora_run)


def data_frame() -> Any:
    import pandas

    return pandas.DataFrame(ROWS)


def data_splits() -> dict[str, list[dict[str, str]]]:
    return {"train": ROWS[:15], "validation": ROWS[15:]}


@pytest.mark.parametrize(
    ("data", "validation"),
    [
        pytest.param(data_frame, 5, id="frame"),
        pytest.param(lambda: ROWS, 5, id="dicts"),
        pytest.param(lambda: Dataset.from_list(ROWS), 5, id="dataset"),
        pytest.param(data_splits, 9, id="splits"),
        pytest.param(
            lambda: DatasetDict({k: Dataset.from_list(v) for k, v in data_splits().items()}),
            9,
            id="dataset-dict",
        ),
    ],
)
def test_train_accepts_python_data(data: Callable[[], Any], validation: int, train: Train) -> None:
    metrics = train(data()).metrics["validation"]
    supports = [metrics[f"support/{label}"] for label in LABELS]
    assert sum(supports) == pytest.approx(validation, abs=1)


def test_train_accepts_a_task_object(train: Train) -> None:
    rows = [{"title": row["label"], "body": row["text"], "kind": row["label"]} for row in ROWS]
    task = TextClassification(text="body", label="kind", labels=LABELS[::-1], max_length=16)
    trained = train(rows, task)
    stored = json.loads((trained.path / "final" / "task.json").read_text())
    assert stored["name"] == "text-classification"
    assert stored["config"]["text"] == "body"
    assert stored["state"]["targets"]["names"] == LABELS[::-1]
    assert {prediction["label"] for prediction in trained.predict(["a goal"])} <= set(LABELS)


def test_train_gives_all_final_files_the_same_permissions(run: finetune.Run) -> None:
    files = [path for path in (run.path / "final").rglob("*") if path.is_file()]
    assert any(path.parent.name == "adapter" for path in files)
    assert len({path.stat().st_mode for path in files}) == 1


def test_train_writes_the_final_model_if_chmod_fails(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert train(ROWS).predict(["a goal"])


def test_output_dtype_requires_a_text_generator(train: Train) -> None:
    with pytest.raises(
        ConfigError, match="output.dtype=float16: only weights of language models may be rounded"
    ):
        train(ROWS, **{"output.dtype": "float16"})


def test_train_accepts_paths(train: Train, tmp_path: Path, bert_folder: Path) -> None:
    files = {"train": tmp_path / "a.csv", "validation": tmp_path / "b.csv"}
    for file in files.values():
        file.write_text("text,label\na goal,sport\na bank,business\n")
    places = {"model": bert_folder, "output": tmp_path / "other"}
    assert train(files["train"], validation=files["validation"], **places).metrics.keys() == {
        "validation"
    }
    assert train(files, fresh=True).metrics.keys() == {"validation"}


def test_train_accepts_paths_in_sections(train: Train, tmp_path: Path, bert_folder: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na goal,sport\na bank,business\n")
    section = {"source": tmp_path / "a.csv", "validation": 0}
    places = {"model": {"name": bert_folder}, "output": {"dir": tmp_path / "other"}}
    assert train(section, **places).path == tmp_path / "other"


def test_train_adds_validation_rows_to_given_splits(train: Train) -> None:
    rows = pd.DataFrame(ROWS)
    splits = {"train": rows[:8], "test": rows[8:10]}
    assert train(splits, validation=rows[10:]).metrics.keys() == {"validation", "test"}
    columns = rows[:8].to_dict("list")
    assert train(columns, validation=rows[10:], fresh=True).metrics.keys() == {"validation"}
    with pytest.raises(
        ConfigError, match=r"rows for validation cannot be combined with .*split_seed"
    ):
        train({"source": "a.csv", "split_seed": 1}, validation=rows[10:])


def test_train_accepts_a_data_section(train: Train, tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_bytes("text,label\nAktien für alle,tech\na goal,sport\n".encode())
    section = {"source": str(tmp_path / "news.csv"), "encoding": ["utf-8", "cp1252"]}
    assert train({**section, "validation": 0}).metrics == {}


def test_train_accepts_validation_and_test_rows(train: Train) -> None:
    import pandas

    frame = pandas.DataFrame(ROWS)
    metrics = train(frame[:15], validation=frame[15:], test=ROWS[:5]).metrics
    supports = {
        name: sum(split[f"support/{label}"] for label in LABELS) for name, split in metrics.items()
    }
    assert supports == {"validation": len(ROWS) - 15, "test": 5}


def test_train_accepts_a_data_section_with_a_list_of_sheets(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for start in (0, 8, 16):
        files.append(tmp_path / f"{start}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in ROWS[start : start + 8]))
    first, *sheets = map(str, files)
    train({"train": first, "validation": 0, "answers": sheets})
    assert "rows: 24 train" in capsys.readouterr().out


def test_train_accepts_a_task_section(train: Train) -> None:
    trained = train(ROWS, {"name": "text-classification", "labels": LABELS[::-1]})
    assert trained.predictor.trained_task.config.labels == LABELS[::-1]


def test_train_rejects_unknown_keys_before_writing_anything(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"epoch: unknown key.*epochs"):
        train(ROWS, epoch=3)
    with pytest.raises(DataError, match="no data given"):
        train(None)
    assert not list(tmp_path.iterdir())


def test_run_returns_metrics_and_history(run: finetune.Run) -> None:
    assert run.metrics.keys() == {"validation"}
    assert 0 <= run.metrics["validation"]["accuracy"] <= 1
    history = run.history()
    trained = history[history["split"] == "train"]
    assert trained["step"].tolist() == [1, 2, 3]
    assert trained["loss"].notna().all()
    evaluated = history[history["split"] == "validation"]
    assert evaluated["step"].tolist() == [0, 3], "before the first step and after the last"
    accuracy = run.metrics["validation"]["accuracy"]
    assert repr(run) == f"Run({str(run.path)!r}, validation accuracy {accuracy:.4f})"


def test_run_predicts_rows_and_bare_texts(run: finetune.Run) -> None:
    texts = [row["text"] for row in FRESH]
    predictions = run.predict(texts)
    assert [set(each) for each in predictions] == [{"label", "score"}] * len(FRESH)
    assert [each["label"] for each in run.predict(FRESH, batch_size=2)] == [
        each["label"] for each in predictions
    ]
    assert run.predict(texts[0]) == run.predict({"text": texts[0]})


def test_run_predicts_a_column_of_another_name(run: finetune.Run) -> None:
    rows = [{"review": row["text"]} for row in FRESH]
    expected = run.predict(FRESH)
    assert run.predict(rows, text="review") == expected
    assert run.predict(rows, **{"task.text": "review"}) == expected
    with pytest.raises(DataError, match=r"name another with task.text=COLUMN"):
        run.predict(rows)


def test_load_names_the_runs_in_a_folder(run: finetune.Run) -> None:
    with pytest.raises(
        ModelError, match=f"a folder of runs; choose one of them: .*{run.path.name}"
    ):
        finetune.load(run.path.parent)


def test_run_predicts_the_rows_of_a_file(run: finetune.Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pd.DataFrame(FRESH).to_csv(path, index=False)
    assert run.predict(str(path)) == run.predict(FRESH)
    assert len(run.predict(str(tmp_path))) == 1, "a text, although there is such a folder"


def test_run_stands_for_its_folder(run: finetune.Run) -> None:
    assert finetune.Run(run).path == run.path
    assert finetune.load(run)(FRESH) == run.predict(FRESH)
    assert finetune.evaluate(run, FRESH) == run.evaluate(FRESH)


def test_evaluate_of_rows_without_labels_names_predict(run: finetune.Run) -> None:
    rows = [{"text": row["text"], "day": 1} for row in FRESH]
    with pytest.raises(DataError, match=r"no column 'label'; .* `finetune predict` does not"):
        run.evaluate(rows)


def test_run_draw_names_a_task_that_draws_nothing(run: finetune.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"drawings: text-classification does not draw"):
        run.draw(FRESH, tmp_path / "drawings")
    assert not (tmp_path / "drawings").exists()


def test_compare_gives_a_table_of_what_is_shared_and_differs(
    run: finetune.Run, finished_run: Path
) -> None:
    table = finetune.compare([run, finished_run])
    assert table.equals(finetune.compare(run, str(finished_run)))
    assert list(table.columns) == [run.path.name, "news", "best"]
    loss = table.loc[("metrics", "validation/loss")]
    assert loss["best"] == ""  # the runs were measured on different rows
    assert table.loc[("cost", "trained parameters")].notna().all()
    assert table.loc[("differs", "method.name"), "news"] == "full"
    assert ("shared", "model.name") in table.index


def test_run_plots_its_history_and_renders_as_html(run: finetune.Run) -> None:
    figure = run.plot()
    assert any(line.get_xdata().size for axes in figure.axes for line in axes.get_lines())
    html = run._repr_html_()
    assert "validation" in html
    assert "accuracy" in html
    assert "precision/" not in html
    assert str(run.path) in html


def test_train_does_nothing_if_the_run_is_finished(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(ROWS)
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    capsys.readouterr()
    again = train(ROWS)
    assert again.metrics == first.metrics
    assert {path: path.stat().st_mtime_ns for path in again.path.rglob("*")} == before
    output = capsys.readouterr().out
    assert "this run is already finished" in output
    assert "accuracy" in output


def test_train_shows_the_metric_that_selects_the_checkpoint(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(ROWS, best="f1_macro")
    lines = capsys.readouterr().out.splitlines()
    evaluated = [line for line in lines if "  validation: loss " in line]
    assert len(evaluated) == 2
    assert all("accuracy" in line and "f1_macro" in line for line in evaluated)
    assert "* optimistically biased: validation selected the checkpoint by f1_macro" in lines
    f1 = run.metrics["validation"]["f1_macro"]
    assert repr(run) == f"Run({str(run.path)!r}, validation f1_macro {f1:.4f})"


def test_train_replaces_a_different_run_only_if_fresh(train: Train) -> None:
    first = train(ROWS)
    with pytest.raises(CheckpointError, match=r"optim.lr: .* in the run, 0.01 now"):
        train(ROWS, lr=0.01)
    assert first.metrics
    again = train(ROWS, lr=0.01, fresh=True)
    assert again.path == first.path
    assert "lr: 0.01" in (again.path / "config.yaml").read_text()


def test_train_assumes_defaults_for_keys_missing_in_the_stored_config(train: Train) -> None:
    run = train(ROWS)
    stored = run.folder.read("run.json")
    del stored["given"]["optim.l1_head"], stored["given"]["data.limit"]
    (run.path / "run.json").write_text(json.dumps(stored))
    assert train(ROWS).metrics == run.metrics
    with pytest.raises(CheckpointError, match=r"optim.l1_head: .* in the run, 0.1 now"):
        train(ROWS, l1_head=0.1)


def test_train_extend_continues_a_finished_run(bert_folder: Path, tmp_path: Path) -> None:
    keys = {"data": ROWS, "model": str(bert_folder), "output": str(tmp_path / "run")}
    finetune.train("text-classification", epochs=1, **keys)
    run = finetune.train("text-classification", epochs=2, extend=True, **keys)
    assert run.folder.read("results.json")["metrics"]
    assert run.history()["epoch"].max() == 2


def test_metrics_key_adds_an_evaluate_module(train: Train, tmp_path: Path) -> None:
    module = tmp_path / "modules" / "hits"
    module.mkdir(parents=True)
    (module / "hits.py").write_text(EVALUATE_MODULE)
    metrics = train(ROWS, metrics=[str(module)]).metrics["validation"]
    rows = sum(metrics[f"support/{label}"] for label in LABELS)
    assert metrics["hits/rows"] == rows
    assert metrics["hits/hits"] == pytest.approx(metrics["accuracy"] * rows)
    assert "hits/kind" not in metrics
