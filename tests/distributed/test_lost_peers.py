"""One of two processes fails: it says why, the other says that it ended, and none shows a trace."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune.distributed.lost_peers import peer_loss

LOST = "error: {}another process of this training ended ("


@contextmanager
def two(
    *words: str, limited: int | None = None, extra: Sequence[dict[str, str]] = ({}, {})
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the train command in two processes, each with `extra` environment variables.

    The process `limited` cannot write files of more than 20 KB, like one on a full disk.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-u", "-m", "finetune", "train", *words],
            env={**os.environ, **shared, **extra[rank], "RANK": str(rank), "LOCAL_RANK": str(rank)},
            preexec_fn=limit if rank == limited else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def words(model: Path, data: Path, folder: Path, **keys: object) -> list[str]:
    keys = {"data.validation": 0.2, "batch_size": 12, "precision": "fp32", **keys}
    first = ["task=text-classification", f"model={model}", f"data={data}", f"output={folder}"]
    return [*first, *(f"{key}={value}" for key, value in keys.items())]


def errors(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Return the last lines of the standard error streams, after both processes have ended."""
    texts = [process.communicate(timeout=300)[1] for process in processes]
    assert not any("Traceback" in text for text in texts), texts
    return [(text.strip().splitlines() or [""])[-1] for text in texts]


@pytest.mark.slow
def test_full_disk_of_the_main_process_is_one_line_of_each(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with two(*words(bert_folder, news_csv, folder, method="full", epochs=2), limited=0) as pair:
        first, second = errors(pair)
    assert [process.returncode for process in pair] == [2, 2]
    assert first.startswith("error: ") and "cannot write the checkpoint" in first
    assert second.startswith(LOST.format("process 1: "))
    assert "run the same command again" in second


@pytest.mark.slow
def test_fault_of_the_other_process_alone_is_one_line_of_each(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """The second process lacks the cache of features in which the first one has finished them."""
    keys = {"method": "frozen", "head": "pooled"}
    caches = [{"FINETUNE_CACHE": str(tmp_path / f"cache-{rank}")} for rank in range(2)]
    with two(*words(bert_folder, news_csv, tmp_path / "run", **keys), extra=caches) as pair:
        first, second = errors(pair)
    assert [process.returncode for process in pair] == [2, 2]
    assert first.startswith(LOST.format(""))
    assert second.startswith("error: process 1: ") and "cannot read the features" in second


@pytest.mark.slow
def test_killed_process_ends_the_other_with_one_line(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {"method": "full", "epochs": 300, "evaluate_every": "never", "save_every": 5}
    with two(*words(bert_folder, news_csv, tmp_path / "run", log_every=1, **keys)) as pair:
        assert pair[0].stdout is not None
        assert any(line.startswith("step ") for line in pair[0].stdout)
        pair[1].send_signal(signal.SIGKILL)
        first, _ = errors(pair)
    assert pair[0].returncode == 2
    assert first.startswith(LOST.format(""))


@pytest.mark.slow
def test_fault_that_both_processes_find_is_printed_once(news_csv: Path, tmp_path: Path) -> None:
    with two(*words(tmp_path / "no-model", news_csv, tmp_path / "run")) as pair:
        first, second = errors(pair)
    assert [process.returncode for process in pair] == [2, 2]
    assert "no-model" in first
    assert second == ""


def test_peer_loss_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    gloo = "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711"
    assert peer_loss(RuntimeError(gloo)) is None  # a single process
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "(Connection closed by peer)" in str(peer_loss(RuntimeError(gloo)))
    assert peer_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
