"""Kill training commands at random moments until they finish, and compare what the runs leave.

    python -m tests.faults.random_kills --kills 100 --processes 1 --seed 0

Several runs are made. Each life of a run is the command itself, which is killed at a random moment
and given again, until it ends by itself. Then its weights, states, metrics and history must equal,
bit for bit, those of the same run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from finetune.cli.main import main as finetune
from finetune.io.run_folder import RunFolder
from tests.support.lives import left_behind
from tests.support.tiny_models import text_csv, tiny_bert

LONGEST_LIFE = 300  # seconds
KEYS = {
    "full": {"method": "full", "optim.layer_decay": 0.9},
    "lora": {"method": "lora"},
    "frozen": {"method": "frozen"},
    "partial": {"method": "partial", "method.unfreeze_every": 0.5},
}


@dataclass
class Tally:
    """Kills by the way in which they were made, and the runs that were compared."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0


@dataclass
class Death:
    """A signal to a life, `delay` seconds after its start; `way` is one of SIGNALS."""

    way: str
    delay: float
    came: bool = False

    def __call__(self, pid: int) -> None:
        time.sleep(self.delay)
        self.came = SIGNALS[self.way](pid)


def kill_randomly(folder: Path, kills: int, processes: int = 1, seed: int = 0) -> Tally:
    """Make killed runs below `folder` until there were `kills` kills.

    Raises AssertionError if a life fails by itself or a run ends otherwise than without kills.
    """
    choose = random.Random(seed)
    tally, wanted = Tally(), {}
    data = text_csv(folder / "news.csv", count=120)
    model = tiny_bert(folder / "bert")
    life = one_process if processes == 1 else two_processes
    os.environ["FINETUNE_CACHE"] = str(folder / "cache")
    while tally.kills.total() < kills:
        method = list(KEYS)[tally.runs % len(KEYS)]
        words = command(method, model, data)
        if method not in wanted:
            unstopped = RunFolder(folder / f"{method}-unstopped")
            began = time.monotonic()
            code = life([*words, f"output={unstopped.path}"], lambda _: None)
            assert code == 0, f"exit code {code} of a run that nobody killed"
            wanted[method] = time.monotonic() - began, as_json(left_behind(unstopped))
        seconds, expected = wanted[method]
        run = RunFolder(folder / f"{method}-{tally.runs}")
        while True:
            death = Death(choose.choice(WAYS[processes]), choose.uniform(0, seconds))
            code = life([*words, f"output={run.path}"], death)
            if code == 0:
                break
            assert death.came, f"exit code {code} of a life that nobody killed, in {run.path}"
            tally.kills[death.way] += 1
        assert as_json(left_behind(run)) == expected, f"{run.path} differs after its kills"
        tally.runs += 1
        print(f"{tally.runs} runs, {dict(tally.kills)} kills: equal", flush=True)
    return tally


def command(method: str, model: Path, data: Path) -> list[str]:
    keys: dict[str, Any] = {
        "task": "text-classification",
        "model": model,
        "data.source": data,
        "data.validation": 0.2,
        "train.batch_size": 12,
        "train.micro_batch": 5,
        "train.epochs": 4,
        "train.log_every": 3,
        "train.precision": "fp32",
        "train.keep_checkpoints": 2,
    }
    return ["train", *(f"{key}={value}" for key, value in {**keys, **KEYS[method]}.items())]


def as_json(left: dict[str, Any]) -> dict[str, Any]:
    """Return what a run left, without the figures that depend on the clock."""
    values: dict[str, Any] = json.loads(json.dumps(left))
    for name in ("results", "last"):
        if isinstance(values[name], dict):
            values[name].pop("seconds", None)
    return values


def one_process(words: list[str], death: Callable[[int], None]) -> int:
    """Run a command in a fork of this process, which has imported everything already."""
    life = multiprocessing.get_context("fork").Process(target=_child, args=(words,))
    life.start()
    assert life.pid is not None
    death(life.pid)
    life.join(LONGEST_LIFE)
    if life.exitcode is None:
        life.kill()
        raise AssertionError(f"a life of more than {LONGEST_LIFE} seconds: {words}")
    return life.exitcode


def _child(words: list[str]) -> None:
    sys.argv = ["finetune", *words]
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, sys.stdout.fileno())
    finetune()


def two_processes(words: list[str], death: Callable[[int], None]) -> int:
    """Run a command under torchrun, and wait for all of its processes."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", *torchrun, "-m", "finetune", *words],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    death(launcher.pid)
    code = launcher.wait(LONGEST_LIFE)
    deadline = time.monotonic() + LONGEST_LIFE
    while orphans := [p for p in psutil.process_iter(["cmdline"]) if _is_rank(p, words)]:
        assert time.monotonic() < deadline, f"processes outlive their launcher: {orphans}"
        time.sleep(0.2)
    return code


def _is_rank(process: psutil.Process, words: list[str]) -> bool:
    return words[-1:] == (process.info["cmdline"] or [])[-1:]  # without words: a zombie


# ---- ways to kill


def _running(pid: int) -> list[psutil.Process]:
    """Return the process of this number unless it has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return [process]
    return []


def _ranks(launcher: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(launcher).children(recursive=True)
    return []


def _send(sent: int, processes: list[psutil.Process]) -> bool:
    """Send a signal to processes; return whether one received it."""
    reached = False
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sent)
            reached = True
    return reached


SIGNALS: dict[str, Callable[[int], bool]] = {
    "all": lambda pid: _send(signal.SIGKILL, _running(pid) + _ranks(pid)),
    "launcher": lambda pid: _send(signal.SIGKILL, _running(pid)),
    "one": lambda pid: _send(signal.SIGKILL, _ranks(pid)[-1:]),
    "one terminated": lambda pid: _send(signal.SIGTERM, _ranks(pid)[-1:]),
    "terminated": lambda pid: _send(signal.SIGTERM, _running(pid)),
}
WAYS = {
    1: ["all", "all", "all", "terminated"],
    2: ["all", "one", "launcher", "one terminated"],
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, choices=WAYS, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        kill_randomly(Path(place), options.kills, options.processes, options.seed)
