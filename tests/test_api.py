"""The kit from Python: finetune.train and what it gives back."""

from __future__ import annotations

import json
import shutil
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

# An `evaluate` module needs no hub where it is a folder: NAME/NAME.py.
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
        return {"hits": hits, "rows": len(references), "kind": "a text is no metric"}
"""


def Share() -> Any:  # noqa: N802 - stands for a class
    """An `evaluate` module made here: the share of right labels."""
    import datasets
    import evaluate

    class Module(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            ints = datasets.Value("int32")
            features = datasets.Features({"predictions": ints, "references": ints})
            return evaluate.MetricInfo(
                description="", citation="", inputs_description="", features=features
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            right = sum(p == r for p, r in zip(predictions, references, strict=True))
            return {"share": right / len(references)}

    return Module()


Train = Callable[..., finetune.Run]


@pytest.fixture
def train(bert_folder: Path, tmp_path: Path) -> Train:
    """finetune.train for 2 steps on 12 rows each, into `tmp_path/run`."""

    def train(data: Any, task: Any = "text-classification", **keys: Any) -> finetune.Run:
        keys = {"output": str(tmp_path / "run"), "model": str(bert_folder), **keys}
        return finetune.train(
            task, data=data, batch_size=12, max_steps=2, log_every=1, method="full", **keys
        )

    return train


@pytest.fixture(scope="module")
def run(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.Run:
    """A finished run."""
    return finetune.train(
        "text-classification",
        data=ROWS,
        model=str(bert_folder),
        method="lora",
        epochs=1,
        log_every=1,
        batch_size=8,
        output=str(tmp_path_factory.mktemp("api") / "run"),
    )


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
def test_train_takes_data_as_python_holds_it(
    data: Callable[[], Any], validation: int, train: Train
) -> None:
    metrics = train(data()).metrics["validation"]
    supports = [metrics[f"support/{label}"] for label in LABELS]
    assert sum(supports) == pytest.approx(validation, abs=1)


def test_train_takes_a_task_of_its_own_config(train: Train) -> None:
    rows = [{"title": row["label"], "body": row["text"], "kind": row["label"]} for row in ROWS]
    task = TextClassification(text="body", label="kind", labels=LABELS[::-1], max_length=16)
    trained = train(rows, task)
    held = json.loads((trained.path / "final" / "task.json").read_text())
    assert held["name"] == "text-classification"
    assert held["config"]["text"] == "body"
    assert held["state"]["targets"]["names"] == LABELS[::-1]
    assert {said["label"] for said in trained.predict(["a goal"])} <= set(LABELS)


def test_whoever_may_read_the_final_model_may_load_it(run: finetune.Run) -> None:
    files = [path for path in (run.path / "final").rglob("*") if path.is_file()]
    assert any(path.parent.name == "adapter" for path in files)
    assert len({path.stat().st_mode for path in files}) == 1


def test_final_model_is_written_where_no_rights_can_be_set(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert train(ROWS).predict(["a goal"])


def test_weights_are_rounded_for_networks_that_write_only(train: Train) -> None:
    with pytest.raises(ConfigError, match="output.dtype: float16 is for networks that write text"):
        train(ROWS, **{"output.dtype": "float16"})


def test_train_takes_paths(train: Train, tmp_path: Path, bert_folder: Path) -> None:
    files = {"train": tmp_path / "a.csv", "validation": tmp_path / "b.csv"}
    for file in files.values():
        file.write_text("text,label\na goal,sport\na bank,business\n")
    places = {"model": bert_folder, "output": tmp_path / "apart"}
    assert train(files["train"], validation=files["validation"], **places).metrics.keys() == {
        "validation"
    }
    assert train(files, fresh=True).metrics.keys() == {"validation"}


def test_train_takes_paths_in_sections(train: Train, tmp_path: Path, bert_folder: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na goal,sport\na bank,business\n")
    section = {"source": tmp_path / "a.csv", "validation": 0}
    places = {"model": {"name": bert_folder}, "output": {"dir": tmp_path / "apart"}}
    assert train(section, **places).path == tmp_path / "apart"


def test_train_takes_other_splits_beside_those_of_data(train: Train) -> None:
    rows = pd.DataFrame(ROWS)
    splits = {"train": rows[:8], "test": rows[8:10]}
    assert train(splits, validation=rows[10:]).metrics.keys() == {"validation", "test"}
    columns = rows[:8].to_dict("list")
    assert train(columns, validation=rows[10:], fresh=True).metrics.keys() == {"validation"}
    with pytest.raises(ConfigError, match=r"rows for validation do not go with .*split_seed"):
        train({"source": "a.csv", "split_seed": 1}, validation=rows[10:])


def test_train_takes_the_section_of_data(train: Train, tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_bytes("text,label\nAktien für alle,tech\na goal,sport\n".encode())
    section = {"source": str(tmp_path / "news.csv"), "encoding": ["utf-8", "cp1252"]}
    assert train({**section, "validation": 0}).metrics == {}


def test_held_out_rows_may_be_given_beside_those_to_train_on(train: Train) -> None:
    import pandas

    frame = pandas.DataFrame(ROWS)
    metrics = train(frame[:15], validation=frame[15:], test=ROWS[:5]).metrics
    supports = {
        name: sum(found[f"support/{label}"] for label in LABELS) for name, found in metrics.items()
    }
    assert supports == {"validation": len(ROWS) - 15, "test": 5}


def test_train_takes_the_section_of_a_task(train: Train) -> None:
    trained = train(ROWS, {"name": "text-classification", "labels": LABELS[::-1]})
    assert trained.predictor.adapter.config.labels == LABELS[::-1]


def test_train_refuses_what_no_config_has_before_anything_is_written(
    train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"epoch: unknown key.*epochs"):
        train(ROWS, epoch=3)
    with pytest.raises(DataError, match="no data are named"):
        train(None)
    assert not list(tmp_path.iterdir())


def test_run_holds_metrics_and_history(run: finetune.Run) -> None:
    assert run.metrics.keys() == {"validation"}
    assert 0 <= run.metrics["validation"]["accuracy"] <= 1
    history = run.history()
    trained = history[history["split"] == "train"]
    assert trained["step"].tolist() == [1, 2, 3]
    assert trained["loss"].notna().all()
    evaluated = history[history["split"] == "validation"]
    assert evaluated["step"].tolist() == [0, 3], "before the first step and after the last"
    assert repr(run) == f"Run({str(run.path)!r})"


def test_run_predicts_rows_and_bare_texts(run: finetune.Run) -> None:
    texts = [row["text"] for row in FRESH]
    said = run.predict(texts)
    assert [set(one) for one in said] == [{"label", "score"}] * len(FRESH)
    assert [one["label"] for one in run.predict(FRESH, batch_size=2)] == [
        one["label"] for one in said
    ]
    assert run.predict(texts[0]) == run.predict({"text": texts[0]})


def test_run_is_drawn(run: finetune.Run) -> None:
    figure = run.plot()
    assert any(line.get_xdata().size for axes in figure.axes for line in axes.get_lines())
    html = run._repr_html_()
    assert "validation" in html
    assert "accuracy" in html
    assert "precision/" not in html
    assert str(run.path) in html


def test_finished_run_that_is_called_again_does_nothing(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(ROWS)
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    capsys.readouterr()
    again = train(ROWS)
    assert again.metrics == first.metrics
    assert {path: path.stat().st_mtime_ns for path in again.path.rglob("*")} == before
    said = capsys.readouterr().out
    assert "this run is finished" in said
    assert "accuracy" in said


def test_another_run_in_the_same_folder_is_refused_and_fresh_replaces_it(train: Train) -> None:
    first = train(ROWS)
    with pytest.raises(CheckpointError, match=r"optim.lr: .* in the run, 0.01 now"):
        train(ROWS, lr=0.01)
    assert first.metrics
    again = train(ROWS, lr=0.01, fresh=True)
    assert again.path == first.path
    assert "lr: 0.01" in (again.path / "config.yaml").read_text()


def test_run_from_before_a_key_existed_is_the_same_run_under_its_default(train: Train) -> None:
    run = train(ROWS)
    held = run.folder.read("run.json")
    del held["given"]["optim.l1_head"], held["given"]["data.limit"]
    (run.path / "run.json").write_text(json.dumps(held))
    assert train(ROWS).metrics == run.metrics
    with pytest.raises(CheckpointError, match=r"optim.l1_head: .* in the run, 0.1 now"):
        train(ROWS, l1_head=0.1)


def test_extend_trains_a_finished_run_longer(bert_folder: Path, tmp_path: Path) -> None:
    keys = {"data": ROWS, "model": str(bert_folder), "output": str(tmp_path / "run")}
    finetune.train("text-classification", epochs=1, **keys)
    run = finetune.train("text-classification", epochs=2, extend=True, **keys)
    assert run.folder.read("results.json")["metrics"]
    assert run.history()["epoch"].max() == 2


def test_load_takes_a_run_and_its_final_folder(run: finetune.Run) -> None:
    expected = run.predict(FRESH)
    assert finetune.load(run.path)(FRESH) == expected
    assert finetune.load(str(run.path / "final"))(FRESH) == expected


def test_load_refuses_a_folder_without_a_model(tmp_path: Path, run: finetune.Run) -> None:
    with pytest.raises(ModelError, match="holds no model of this kit"):
        finetune.load(tmp_path)
    with pytest.raises(ModelError, match="there is no such folder"):
        finetune.load(tmp_path / "nowhere")
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "run.json").write_text((run.path / "run.json").read_text())
    with pytest.raises(ModelError, match="no final model yet"):
        finetune.load(unfinished)
    with pytest.raises(CheckpointError, match="results.json"):
        finetune.Run(unfinished)


def test_load_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "news.csv").touch()
    with pytest.raises(ModelError, match="is a file; give a run"):
        finetune.load(tmp_path / "news.csv")


def test_load_says_how_a_damaged_model_is_written_anew(run: finetune.Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    path = copy / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"model.safetensors: is damaged .*results.json and run"):
        finetune.load(copy)


@pytest.mark.parametrize("device", ["gpu", "meta:x", "cuda:99"])
def test_load_refuses_a_device_that_is_not_here(device: str, run: finetune.Run) -> None:
    with pytest.raises(
        ConfigError, match=rf"device: '{device}' cannot be used here .* or leave it"
    ):
        finetune.load(run.path, device=device)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([5], "row 1: text is 5, not text"),
        ([{"text": "a goal"}, {"txt": "a"}], "row 2: has no column 'text'.* did you mean 'txt'"),
        ([("a", "b")], "does not fit the columns text; give dicts"),
    ],
)
def test_rows_that_cannot_be_predicted_are_named(
    rows: list[Any], said: str, run: finetune.Run
) -> None:
    with pytest.raises(DataError, match=said):
        run.predict(rows)


def test_evaluate_module_is_computed_beside_the_metrics(train: Train, tmp_path: Path) -> None:
    module = tmp_path / "modules" / "hits"
    module.mkdir(parents=True)
    (module / "hits.py").write_text(EVALUATE_MODULE)
    metrics = train(ROWS, metrics=[str(module)]).metrics["validation"]
    rows = sum(metrics[f"support/{label}"] for label in LABELS)
    assert metrics["hits/rows"] == rows
    assert metrics["hits/hits"] == pytest.approx(metrics["accuracy"] * rows)
    assert "hits/kind" not in metrics


def test_predictor_stands_where_a_pipeline_does(
    run: finetune.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluate
    import transformers

    # `evaluate` 0.4.6 asks for a class that transformers 5 has no more.
    monkeypatch.setattr(transformers, "TFPreTrainedModel", type("TF", (), {}), raising=False)
    expected = run.predict([row["text"] for row in FRESH])
    labels = {name: index for index, name in enumerate(LABELS)}
    found = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=finetune.load(run.path),
        data=Dataset.from_list([{**row, "label": labels[row["label"]]} for row in FRESH]),
        metric=Share(),
        label_mapping=labels,
    )
    hits = [said["label"] == row["label"] for said, row in zip(expected, FRESH, strict=True)]
    assert found["share"] == sum(hits) / len(hits)


def test_only_safetensors_are_read(run: finetune.Run, tmp_path: Path) -> None:
    """A pickle in their place is not even looked at."""
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch unpickled'\ntR.")
    with pytest.raises(ModelError, match="no weights as safetensors"):
        finetune.load(folder)


def test_code_beside_a_model_runs_only_if_it_is_trusted(run: finetune.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    config = json.loads((folder / "config.json").read_text())
    name = config["architectures"][0]
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig"}}
    config["auto_map"]["AutoModelForSequenceClassification"] = "strange.Strange"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "strange.py").write_text(
        f"""
from pathlib import Path
from transformers import BertConfig, {name}
Path({str(tmp_path / "ran")!r}).touch()
class StrangeConfig(BertConfig): model_type = "strange"
class Strange({name}): config_class = StrangeConfig
"""
    )
    with pytest.raises(ModelError, match="trust_remote_code"):
        finetune.load(folder)
    assert not (tmp_path / "ran").exists()
    assert finetune.load(folder, trust_remote_code=True)(FRESH) == run.predict(FRESH)
    assert (tmp_path / "ran").exists()
