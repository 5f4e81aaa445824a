"""The command line as a shell sees it: arguments, exit codes, standard output and error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.distributed.signals import Interrupted
from tests.support.command_line import finetune

COMMANDS = (
    "train",
    "search",
    "evaluate",
    "predict",
    "embed",
    "explore",
    "suggest",
    "inspect",
    "compare",
    "export",
    "push",
    "tasks",
    "init",
)
HEAVY = ("torch", "transformers", "datasets", "pydantic", "rich", "numpy")


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['finetune', '--help']\n"
        "from finetune.cli.main import main\n"
        "try: main()\n"
        "finally: print('loaded', *sys.modules)"
    )
    output = python(code).stdout
    assert all(f"  {command} " in output for command in COMMANDS)
    assert not {*HEAVY} & {*output.partition("loaded")[2].split()}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["check", "news.csv", "-o", "s3://bucket/out"], "-o s3://bucket/out"),
        (["report", "runs/news", "--output=gs://bucket/out"], "-o gs://bucket/out"),
        (["predict", "runs/news", "news.csv", "--draw", "s3://b/out"], "--draw s3://b/out"),
    ],
)
def test_an_output_that_is_a_url_is_refused(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(*words) == 2
    assert f"{named}: is a URL; name a place on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(command, "--help") == 0
    assert f"\n  finetune {command} " in capsys.readouterr().out


def test_python_m_finetune_runs_the_same_commands() -> None:
    words = [sys.executable, "-m", "finetune", "tasks"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "text-classification" in done.stdout


def test_train_reports_all_config_errors_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune("train", "bbc-news", "eposh=3", "lr=fast", "method.rnk=4", "method=lora") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "eposh: unknown key; did you mean 'epochs'? (command line)" in captured.err
    assert "optim.lr: 'fast'" in captured.err
    assert "method.rnk: unknown key; did you mean 'rank'?" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["bbc-new"], "'bbc-news'"),
        ([], "no task given"),
        (["task=text-clasification", "model=x", "data=x.csv"], "'text-classification'"),
        (["bbc-news", "epochs", "3"], "write everything else as key=value"),
    ],
)
def test_train_suggests_a_remedy_for_a_wrong_name(
    words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("train", *words) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("task.label=topic", "there is no column 'topic'"),
        ("optim=adamww", "did you mean 'adamw'?"),
        ("data.train=nws.csv", "no such file"),
        ("data.group=author", "no column 'author'"),
    ],
)
def test_train_rejects_invalid_data_before_loading_a_model(
    change: str,
    remedy: str,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["task=text-classification", f"data.train={news_csv}", "model=no/such-model"]
    assert finetune("train", *words, change) == 2
    assert remedy in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_main_prints_errors_on_the_main_process_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert finetune("train", "bbc-new") == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_main_exits_with_the_code_of_the_signal(
    number: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Interrupted(7, number)

    monkeypatch.setattr("finetune.training.run.run", stop)
    assert finetune("train", "bbc-news") == code
    assert "run the same command again to resume" in capsys.readouterr().err


def test_main_keeps_the_traceback_of_unexpected_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("finetune.training.run.run", fail)
    with pytest.raises(ZeroDivisionError):
        finetune("train", "bbc-news")


def test_train_accepts_options_in_any_position(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "finetune.training.run.run", lambda loaded, task, **flags: seen.update(flags)
    )
    assert finetune("train", "lr=1e-3", "--fresh", "bbc-news", "epochs=2") == 0
    assert seen == {"fresh": True, "extend": False}
    assert finetune("train", "bbc-news", "--lr", "1e-3") == 2


def test_push_is_private_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "finetune.export.hub.push", lambda *words, **keys: seen.append((words, keys))
    )
    assert finetune("push", "runs/news", "me/news") == 0
    assert finetune("push", "runs/news", "me/news", "--public", "--what", "both", "--dry-run") == 0
    defaults = {"private": True, "dry_run": False, "what": "merged", "license": None}
    defaults |= {"base_model": None}
    assert seen[0] == (("runs/news", "me/news"), defaults)
    assert seen[1][1] == defaults | {"private": False, "dry_run": True, "what": "both"}


# ---- a finished run


def test_train_leaves_a_finished_run_unchanged(
    finished_run: Path, bert_folder: Path, news_csv: Path, held_csv: Path, capsys: Any
) -> None:
    words = ["task=text-classification", f"model={bert_folder}", "method=full", "epochs=4"]
    words += [f"data.train={news_csv}", f"data.validation={held_csv}", "lr=3e-3", "batch_size=8"]
    words += ["precision=fp32"]
    before = (finished_run / "results.json").stat().st_mtime_ns
    assert finetune("train", *words, f"output={finished_run}") == 0
    assert "this run is already finished" in capsys.readouterr().out
    assert finetune("train", *words, f"output={finished_run}", "lr=1e-3") == 2
    assert "optim.lr: 0.003 in the run, 0.001 now" in capsys.readouterr().err
    assert (finished_run / "results.json").stat().st_mtime_ns == before


def test_train_refuses_to_extend_and_replace_a_run(finished_run: Path, capsys: Any) -> None:
    words = ["task=text-classification", "model=nowhere", "data=none.csv", "--fresh", "--extend"]
    assert finetune("train", *words, f"output={finished_run}") == 2
    assert "--fresh and --extend: one starts the run over" in capsys.readouterr().err
    assert (finished_run / "results.json").is_file()


def test_train_fresh_keeps_the_old_run_if_the_new_one_fails(
    finished_run: Path, news_csv: Path, capsys: Any
) -> None:
    words = ["task=text-classification", "model=./no/such/model", f"data={news_csv}", "--fresh"]
    assert finetune("train", *words, f"output={finished_run}") == 2
    assert (finished_run / "final" / "model.safetensors").is_file()


def test_task_save_shows_no_progress_bars(finished_run: Path, capfd: Any) -> None:
    from finetune.inference.predictor import load

    predictor = load(finished_run, device="cpu")
    predictor.trained_task.save(predictor.model, finished_run.parent / "copy")
    assert capfd.readouterr().err == ""


def test_evaluate_without_data_shows_stored_metrics(
    finished_run: Path, tmp_path: Path, capsys: Any
) -> None:
    assert finetune("evaluate", finished_run, "-o", tmp_path / "metrics.json") == 0
    output = capsys.readouterr().out
    assert "accuracy" in output
    assert "│ business │" in output
    assert "finetune predict" in output
    first = json.loads((finished_run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    row = next(line for line in output.splitlines() if line.startswith("│ accuracy"))
    assert row.split()[-2] == f"{first['accuracy']:.4f}"  # next to the trained accuracy
    assert "validation, untrained" in output
    stored = json.loads((finished_run / "results.json").read_text())["metrics"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == stored
    assert finetune("evaluate", finished_run / "final") == 2
    assert "name the rows to evaluate on" in capsys.readouterr().err


def test_evaluate_reproduces_the_metrics_of_training(
    finished_run: Path, held_csv: Path, tmp_path: Path, capsys: Any
) -> None:
    assert finetune("evaluate", finished_run, held_csv, "-o", tmp_path / "metrics.json") == 0
    measured = json.loads((tmp_path / "metrics.json").read_text())
    stored = json.loads((finished_run / "results.json").read_text())["metrics"]["validation"]
    assert measured == pytest.approx(stored, abs=1e-6)
    assert stored["accuracy"] > 0.5  # better than chance, or equality would prove little


def test_evaluate_shows_support_as_an_integer(
    finished_run: Path, held_csv: Path, capsys: Any
) -> None:
    assert finetune("evaluate", finished_run, held_csv, "limit=9") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "│ sport" in line]
    assert rows[0].split("│")[-2].strip().isdigit()


@pytest.mark.parametrize(
    ("rows", "keys", "remedy"),
    [
        ("text,lable\na,tech\n", [], "did you mean 'lable'?"),
        ("text,label\na,tech\nb,cooking\n", [], "row 2: label is 'cooking', a label that does not"),
        ("text,label\na,tech\n", ["--output", "x.csv"], "name a .json file"),
    ],
)
def test_evaluate_rejects_invalid_rows(
    rows: str, keys: list[str], remedy: str, finished_run: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "rows.csv").write_text(rows)
    assert finetune("evaluate", finished_run, tmp_path / "rows.csv", *keys) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_on_two_processes_writes_the_same_metrics(
    finished_run: Path, held_csv: Path, tmp_path: Path
) -> None:
    for processes in ("1", "2"):
        words = ["-m", "torch.distributed.run", "--nproc_per_node", processes, "-m", "finetune"]
        words += [
            "evaluate",
            str(finished_run),
            str(held_csv),
            "-o",
            f"{tmp_path}/{processes}.json",
        ]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *words], env=environment, check=True)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_imported_libraries_are_left_alone_by_the_garbage_collector() -> None:
    """Its walks over them took a third of the time of a command: at imports, and at the end."""
    code = (
        "import gc\n"
        "from finetune.cli.options import loading_libraries\n"
        "with loading_libraries():\n"
        "    print('importing', gc.isenabled())\n"
        "print('imported', gc.isenabled(), gc.get_freeze_count() > 1000)\n"
    )
    lines = python(code).stdout.splitlines()
    assert lines[:2] == ["importing False", "imported True True"]


@pytest.mark.parametrize("frozen", [True, False])
def test_code_of_a_network_is_left_alone_where_libraries_are(frozen: bool) -> None:
    """The command line owns its process; in others, freezing would keep garbage of theirs."""
    code = (
        "import gc\n"
        "from tasks.backbones.pretrained import _import_network\n"
        f"{'gc.freeze()' if frozen else ''}\n"
        "before = gc.get_freeze_count()\n"
        "for model_type in ('bert', 'no-network', None, ['bert']):\n"
        "    _import_network(model_type)\n"
        "import sys\n"
        "print('transformers.models.bert.modeling_bert' in sys.modules, gc.isenabled())\n"
        "print(gc.get_freeze_count() > before + 1000, gc.get_freeze_count() > 0)\n"
    )
    lines = python(code).stdout.splitlines()
    assert lines == ["True True", f"{frozen} {frozen}"]


def test_command_ends_without_a_last_collection() -> None:
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print('at the end', gc.get_freeze_count() > 1000))\n"
        "sys.argv = ['finetune', 'tasks']\n"
        "from finetune.cli.main import main\n"
        "main()"
    )
    assert python(code).stdout.splitlines()[-1] == "at the end True"
