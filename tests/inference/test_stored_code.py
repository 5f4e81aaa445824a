"""Code that files of a model or a run name: refused, announced, or not needed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import finetune
from finetune.errors import ConfigError, ModelError
from finetune.inference.stored_code import check_stored_code, check_stored_task
from tests.support.command_line import finetune as command
from tests.support.tiny_models import text_rows

ROWS = text_rows(6, seed=9)
EVIL = """
from pathlib import Path
from tasks import TextClassification

Path("ran").touch()

class T(TextClassification):
    pass

def clean(row):
    return row
"""


@pytest.fixture
def copied(lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copied run in the working folder, beside a module that leaves the file `ran`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_mod.py").write_text(EVIL)
    monkeypatch.delitem(sys.modules, "evil_mod", raising=False)
    return shutil.copytree(lora_run, tmp_path / "run")


def change(path: Path, **values: Any) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | values))


@pytest.mark.parametrize("name", ["evil_mod:T", "evil_mod.py:T"])
def test_load_imports_a_task_that_is_not_installed_only_if_trusted(
    name: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copied / "final" / "task.json", name=name)
    use: list[Callable[[], Any]] = [
        lambda: finetune.load(copied),
        lambda: finetune.evaluate(copied, ROWS),
        lambda: finetune.embed(copied, ROWS, "vectors.parquet"),
    ]
    for each in use:
        with pytest.raises(ConfigError, match=r"task.json: task.name names .*sha256 [0-9a-f]{16}"):
            each()
    assert not Path("ran").exists()
    expected = finetune.load(copied.parent / "run", trust_code=True)(ROWS)
    assert len(expected) == len(ROWS)
    assert Path("ran").exists()
    assert f"names in task.name: {name} (" in capsys.readouterr().err
    Path("ran").unlink()
    finetune.load(copied)  # imported already: nothing new runs
    assert not Path("ran").exists()


def test_commands_refuse_the_code_of_a_run(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copied / "final" / "task.json", name="evil_mod:T")
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for words in (
        ("predict", "run", "rows.jsonl"),
        ("evaluate", "run", "rows.jsonl"),
        ("embed", "run", "rows.jsonl", "-o", "vectors.parquet"),
        ("export", "run", "rows.jsonl"),
    ):
        assert command(*words) == 2
        assert "then add --trust-code" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert command("predict", "run", "rows.jsonl", "--trust-code") == 0
    assert Path("ran").exists()


@pytest.mark.parametrize(
    "name", ["antigravity:T", "idlelib.idle:T", "evil_mod.sub:T", "nowhere:T", "./evil_mod.py:T"]
)
def test_check_stored_task_refuses_what_no_package_installed(name: str, copied: Path) -> None:
    with pytest.raises(ConfigError, match="it does not run"):
        check_stored_task(name, copied / "final" / "task.json", trust_code=False)


@pytest.mark.parametrize(
    "name",
    ["text-classification", "tasks.text_classification:TextClassification", "peft.peft_model:X"],
)
def test_check_stored_task_accepts_installed_packages(name: str) -> None:
    check_stored_task(name, Path("task.json"), trust_code=False)


def test_check_stored_code_refuses_functions_of_installed_packages() -> None:
    with pytest.raises(ConfigError, match="subprocess:run"):
        check_stored_code("data.map", "subprocess:run", Path("config.yaml"), trust_code=False)


def test_export_runs_the_map_of_a_run_only_if_trusted(
    copied: Path, news_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    path = copied / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"source": str(news_csv), "train": None, "map": "evil_mod.py:clean"}
    path.write_text(yaml.safe_dump(config))
    assert command("export", "run") == 2
    assert "config.yaml: data.map names the code evil_mod.py:clean" in capsys.readouterr().err
    assert not Path("ran").exists()


STORED = {
    "map": {"data.map": "evil_mod.py:clean"},
    "task": {"task.name": "evil_mod:T"},
    "method": {"method.name": "evil_mod.py:T"},
}
ON_RUNS = [
    ("check", "run"),
    ("label-issues", "run"),
    ("explore", "run", "-o", "explored"),
    ("suggest", "run", "pool.jsonl", "-o", "sheet.csv"),
    ("report", "run"),
    ("reproduce", "run", "-o", "again"),
    ("evaluate", "run"),
    ("calibrate", "run", "rows.jsonl"),
    ("compare", "run", "run"),
    ("push", "run", "me/news", "--dry-run"),
]


LOADING = ("check", "label-issues", "reproduce", "suggest")  # commands that read the whole config
CASES = [(words, kind) for words in ON_RUNS for kind in STORED if kind != "method"]
CASES += [(words, "method") for words in ON_RUNS if words[0] in LOADING]


@pytest.mark.parametrize(
    ("words", "kind"), CASES, ids=[f"{words[0]}-{kind}" for words, kind in CASES]
)
def test_commands_on_a_run_do_not_run_the_code_of_its_config(
    words: tuple[str, ...], kind: str, copied: Path, news_csv: Path
) -> None:
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    Path("pool.jsonl").write_text("\n".join(json.dumps({"text": row["text"]}) for row in ROWS))
    name_code(copied, {"data.source": str(news_csv), **STORED[kind]})
    code = command(*words)
    assert not Path("ran").exists()
    if words[0] in ("check", "label-issues", "reproduce") or (words[0], kind) == ("explore", "map"):
        assert code == 2


def name_code(run: Path, keys: Mapping[str, str]) -> None:
    """Write keys into the stored config of a run, its task and its card."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["train"] = None
    for key, value in keys.items():
        section, _, leaf = key.partition(".")
        config[section][leaf] = value
    path.write_text(yaml.safe_dump(config))
    if "task.name" in keys:
        change(run / "final" / "task.json", name=keys["task.name"])
    card = run / "final" / "README.md"
    before, json_block, after = card.read_text().partition('"config": {')
    lines = "".join(f"{json.dumps(key)}: {json.dumps(value)}," for key, value in keys.items())
    after = after.replace('"task.name": "text-classification",', "", "task.name" in keys)
    after = after.replace('"method.name": "lora",', "", "method.name" in keys)
    card.write_text(f"{before}{json_block}{lines}{after}")


def test_check_runs_the_map_of_a_run_if_trusted_or_replaced(
    copied: Path, news_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name_code(copied, {"data.source": str(news_csv), "data.map": "evil_mod.py:clean"})
    assert command("check", "run") == 2
    message = capsys.readouterr().err
    assert "config.yaml: data.map names the code evil_mod.py:clean" in message
    assert command("check", "run", "data.map=null") == 0
    assert not Path("ran").exists()
    assert command("check", "run", "--trust-code") == 0
    assert Path("ran").exists()


def test_evaluate_runs_stored_metrics_only_if_trusted(copied: Path) -> None:
    path = copied / "final" / "task.json"
    config = json.loads(path.read_text())["config"] | {"metrics": ["evil_mod.py"]}
    change(path, config=config)
    assert finetune.load(copied)(ROWS), "a prediction computes no metrics"
    with pytest.raises(ConfigError, match=r"task.metrics names the code evil_mod.py \(evil_mod.py"):
        finetune.evaluate(copied, ROWS)
    assert not Path("ran").exists()


def test_resumed_run_takes_code_from_the_user(
    copied: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["map"] = "evil_mod.py:clean"
    config["task"]["metrics"] = ["evil_mod.py"]
    config["method"]["name"] = "evil_mod.py:T"
    config["model"]["trust_remote_code"] = True
    path.write_text(yaml.safe_dump(config))
    (copied / "results.json").unlink()
    keys: dict[str, Any] = {"method": "lora", "epochs": 1, "log_every": 1, "batch_size": 8}
    finetune.train(
        "text-classification", data=text_rows(24), model=str(bert_folder), output="run", **keys
    )
    resumed = yaml.safe_load(path.read_text())
    assert (resumed["data"]["map"], resumed["task"]["metrics"]) == (None, [])
    assert (resumed["method"]["name"], resumed["model"]["trust_remote_code"]) == ("lora", False)
    assert not Path("ran").exists()


@pytest.mark.parametrize("place", ["snapshots/0a1b", "local"])
def test_load_never_runs_code_of_a_hub(lora_run: Path, tmp_path: Path, place: str) -> None:
    folder = shutil.copytree(lora_run / "final", tmp_path / place)
    change(
        folder / "config.json",
        model_type="strange",
        auto_map={
            "AutoConfig": "strange.Config" if place != "local" else "me/evil--strange.Config"
        },
    )
    (folder / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="code of a hub repository never runs"):
        finetune.load(folder, trust_code=True)
    assert not (tmp_path / "ran").exists()
