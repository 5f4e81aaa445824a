"""finetune.load: accepted folders, trusted code, and the predictor that it returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file

import finetune
from finetune.errors import CheckpointError, ConfigError, DataError, ModelError
from tests.support.tiny_models import LABELS, text_rows

FRESH = text_rows(6, seed=9)


@pytest.fixture(scope="module")
def run(lora_run: Path) -> finetune.Run:
    return finetune.Run(lora_run)


def share_metric() -> Any:
    """Create an `evaluate` metric: the share of correct labels."""
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
            correct = sum(p == r for p, r in zip(predictions, references, strict=True))
            return {"share": correct / len(references)}

    return Module()


def test_load_accepts_a_run_and_its_final_folder(run: finetune.Run) -> None:
    expected = run.predict(FRESH)
    assert finetune.load(run.path)(FRESH) == expected
    assert finetune.load(str(run.path / "final"))(FRESH) == expected


def test_load_asks_no_hub_for_a_run_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="^runs/x: no such folder; give a run folder"):
        finetune.load("runs/x")
    with pytest.raises(ModelError, match=r"on the hub \(HF_HUB_OFFLINE is set, and it was not"):
        finetune.load("me/nope")


def test_load_rejects_a_folder_without_a_model(tmp_path: Path, run: finetune.Run) -> None:
    with pytest.raises(ModelError, match="not a model of this kit"):
        finetune.load(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        finetune.load(tmp_path / "nowhere")
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "run.json").write_text((run.path / "run.json").read_text())
    with pytest.raises(ModelError, match="not finished, it has no checkpoint yet"):
        finetune.load(unfinished)
    with pytest.raises(CheckpointError, match="not finished"):
        finetune.Run(unfinished)


def test_load_rejects_a_file(tmp_path: Path) -> None:
    (tmp_path / "news.csv").touch()
    with pytest.raises(ModelError, match="this is a file; give a run folder"):
        finetune.load(tmp_path / "news.csv")


def test_load_explains_how_to_restore_a_damaged_model(run: finetune.Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    path = copy / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"model.safetensors: is damaged .*results.json and run"):
        finetune.load(copy)
    path.unlink()
    with pytest.raises(ModelError, match=r"no safetensors weights .*results.json and run"):
        finetune.load(copy)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_load_rejects_weights_that_are_not_finite(
    value: str, run: finetune.Run, tmp_path: Path
) -> None:
    path = shutil.copytree(run.path, tmp_path / "run") / "final" / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.bias"][1] = float(value)
    save_file(tensors, path, metadata={"format": "pt"})
    shown = "NaN" if value == "nan" else "infinity"
    with pytest.raises(ModelError, match=f"'classifier.bias' contains {shown}; to write final/"):
        finetune.load(path.parent.parent)


@pytest.mark.parametrize("names", [LABELS[:-1], [*LABELS, "weather"]])
def test_load_rejects_another_number_of_labels_than_outputs(
    names: list[str], run: finetune.Run, tmp_path: Path
) -> None:
    path = shutil.copytree(run.path, tmp_path / "run") / "final" / "task.json"
    saved = json.loads(path.read_text())
    saved["state"]["targets"]["names"] = names
    path.write_text(json.dumps(saved))
    with pytest.raises(ModelError, match=rf"lists {len(names)} labels, but .* {len(LABELS)} out"):
        finetune.load(path.parent.parent)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"devise": "cpu"}, "devise: unknown key of text-classification; did you mean 'device'"),
        ({"treshold": 0.3}, "treshold: unknown key .* did you mean 'threshold'"),
        ({"max_length": 8}, "max_length: does not affect predictions of text-classification"),
    ],
)
def test_load_rejects_unknown_keywords(
    keys: dict[str, Any], message: str, run: finetune.Run
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.load(run.path, **keys)


def test_predictor_shows_its_task_network_and_device(run: finetune.Run) -> None:
    shown = "Predictor(text-classification of text, BertForSequenceClassification, cpu, fp32)"
    assert repr(finetune.load(run.path, device="cpu")) == shown


def test_load_rejects_a_model_without_all_of_its_tensors(run: finetune.Run, tmp_path: Path) -> None:
    """The library would initialize them at random, and the model would guess."""
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    tensors = load_file(folder / "model.safetensors")
    some = {name: tensor for name, tensor in tensors.items() if ".layer.0." not in name}
    save_file(some, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"final: its weight files lack bert\..* and \d+ more"):
        finetune.load(folder)
    turned = {name: tensor.T.contiguous() for name, tensor in tensors.items()}
    save_file(turned, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"final.* cannot be loaded with"):
        finetune.load(folder)


@pytest.mark.parametrize("device", ["gpu", "meta:x", "cuda:99"])
def test_load_rejects_an_unavailable_device(device: str, run: finetune.Run) -> None:
    with pytest.raises(ConfigError, match=rf"device: '{device}' is not available .* or leave it"):
        finetune.load(run.path, device=device)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([5], "row 1: text is 5, not text"),
        ([{"text": "a goal"}, {"txt": "a"}], "row 2: has no column 'text'.* did you mean 'txt'"),
        ([("a", "b")], "does not match the columns text; pass dicts"),
    ],
)
def test_predictor_names_invalid_rows(rows: list[Any], message: str, run: finetune.Run) -> None:
    with pytest.raises(DataError, match=message):
        run.predict(rows)


def test_predictor_works_as_a_pipeline_in_evaluate(
    run: finetune.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluate
    import transformers

    # `evaluate` 0.4.6 imports a class that transformers 5 has removed.
    monkeypatch.setattr(transformers, "TFPreTrainedModel", type("TF", (), {}), raising=False)
    expected = run.predict([row["text"] for row in FRESH])
    labels = {name: index for index, name in enumerate(LABELS)}
    results = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=finetune.load(run.path),
        data=Dataset.from_list([{**row, "label": labels[row["label"]]} for row in FRESH]),
        metric=share_metric(),
        label_mapping=labels,
    )
    hits = [each["label"] == row["label"] for each, row in zip(expected, FRESH, strict=True)]
    assert results["share"] == sum(hits) / len(hits)


def test_load_reads_only_safetensors(run: finetune.Run, tmp_path: Path) -> None:
    """A pickle of the same weights is not opened."""
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch unpickled'\ntR.")
    with pytest.raises(ModelError, match="no safetensors weights"):
        finetune.load(folder)


def test_load_runs_code_in_the_folder_only_if_trusted(run: finetune.Run, tmp_path: Path) -> None:
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
    assert finetune.load(folder, trust_code=True)(FRESH) == run.predict(FRESH)
    assert (tmp_path / "ran").exists()


def test_load_refuses_labels_that_contradict_those_of_the_network(
    run: finetune.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run.path / "final", tmp_path / "final"))
    saved = json.loads((folder / "task.json").read_text())
    saved["state"]["targets"]["names"].reverse()
    (folder / "task.json").write_text(json.dumps(saved))
    with pytest.raises(ModelError, match=r"label 0 is '\w+', but '\w+' in config\.json; if you"):
        finetune.load(folder)
    assert "not as the run wrote it (task.json differs)" in capsys.readouterr().err
