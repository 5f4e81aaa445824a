"""Full disks, lack of memory, closed pipes and interrupts: an exit code and one message."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Runs
from tests.support.limited import call_limited, run_command, run_limited


def with_files_up_to(size: int, action: Callable[[], None]) -> Callable[[], None]:
    """Return a function that may write at most `size` bytes to a file, as on a full disk."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes then fail with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        action()

    return limited


@pytest.mark.parametrize(
    ("size", "what"),
    [(100, "run.json"), (3_000, "model"), (150_000, "optimizer")],
)
def test_training_on_a_full_disk_ends_in_one_message(
    size: int, what: str, runs: Runs, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [*runs.words, f"output={folder}"]
    ended = call_limited(with_files_up_to(size, lambda: run_command(words)))
    assert (ended.code, ended.fault) == (2, ""), f"{what}: {ended.errors}"
    assert not list(folder.rglob("*.partial"))
    ended = run_limited(words)
    assert (ended.code, ended.fault) == (0, "")


def test_final_model_on_a_full_disk_ends_in_one_message(runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*runs.words, f"output={folder}"]

    def fill_the_disk_at_the_end() -> None:
        from finetune.training import finalize

        finish = finalize.finalize_run
        finalize.finalize_run = lambda *all: with_files_up_to(3_000, lambda: finish(*all))()
        run_command(words)

    ended = call_limited(fill_the_disk_at_the_end)
    assert (ended.code, ended.fault) == (2, ""), ended.errors
    assert not (folder / "results.json").exists()
    ended = run_limited(words)
    assert (ended.code, ended.fault) == (0, "")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_predictions_on_a_full_disk_leave_no_file(ending: str, runs: Runs, tmp_path: Path) -> None:
    words = ["predict", f"{runs.finished}", f"{runs.data}", "-o", f"{tmp_path / 'rows'}.{ending}"]
    ended = call_limited(with_files_up_to(500, lambda: run_command(words)))
    assert (ended.code, ended.fault) == (2, ""), ended.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["reports", "onnx", "metrics"])
def test_other_outputs_on_a_full_disk_end_in_one_message(
    what: str, runs: Runs, tmp_path: Path
) -> None:
    run, data = f"{runs.finished}", f"{runs.data}"
    words = {
        "reports": ["evaluate", run, data, "-o", f"{tmp_path / 'reports'}"],
        "metrics": ["evaluate", run, "-o", f"{tmp_path / 'metrics.json'}"],
        "onnx": ["export", run, data, "-o", f"{tmp_path / 'onnx'}"],
    }[what]
    ended = call_limited(with_files_up_to(100, lambda: run_command(words)))
    assert (ended.code, ended.fault) == (2, ""), ended.errors


def test_cached_features_on_a_full_disk_end_in_one_message(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    words = [word.replace("method=full", "method=frozen") for word in runs.words]
    words.append(f"output={tmp_path / 'run'}")
    for size in (0, 100, 3_000):
        ended = call_limited(with_files_up_to(size, lambda: run_command(words)))
        assert (ended.code, ended.fault) == (2, ""), ended.errors
    assert run_limited(words).code == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 12_000_000),
        ("vocab_size", 10**9),
        ("max_position_embeddings", 10**9),
        ("intermediate_size", 10**10),
    ],
)
def test_network_larger_than_memory_ends_in_one_message(
    key: str, value: int, runs: Runs, tmp_path: Path
) -> None:
    model = runs.changed_model(tmp_path / "bert", key, value)
    words = [word if not word.startswith("model=") else f"model={model}" for word in runs.words]
    ended = run_limited([*words, f"output={tmp_path / 'run'}"])
    assert (ended.code, ended.fault) == (2, ""), ended.errors


@pytest.mark.parametrize("words", [["tasks"], ["tasks", "text-classification"], ["compare"]])
def test_closed_pipe_ends_a_command_silently(words: list[str], runs: Runs) -> None:
    """As `finetune tasks | head -1` closes it."""
    more = [f"{runs.finished}", f"{runs.stopped}"] if words == ["compare"] else []
    reading, writing = os.pipe()
    os.close(reading)

    def write_to_closed_pipe() -> None:
        os.dup2(writing, 1)
        run_command([*words, *more])

    try:
        ended = call_limited(write_to_closed_pipe)
    finally:
        os.close(writing)
    assert ended.errors == ""
    assert ended.code in (0, 1, 120, 141)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 5, 6, 8])
def test_interrupt_in_any_phase_leaves_no_traceback(
    seconds: float, runs: Runs, tmp_path: Path
) -> None:
    words = [*runs.words, f"output={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output
    assert process.returncode in (0, 130)
