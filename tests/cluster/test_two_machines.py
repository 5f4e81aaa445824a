"""A Ray cluster of two machines, which are processes of this one: losses of a machine.

Needs the extra `ray`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from finetune.cluster.predict_and_embed import embed, predict
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROWS = 12_000  # twelve blocks
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


class TwoMachines:
    """A cluster with two machines of one CPU, and commands that use it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {**MACHINE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(**MACHINE)
        self.address = str(self.cluster.address)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *words: object) -> subprocess.Popen[str]:
        env = os.environ | {"RAY_ADDRESS": self.address, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "finetune", *map(str, words), "on=ray"]
        if words[0] == "search":
            command[-1] = "search.on=ray"
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.processes.append(process)
        return process

    def runs(self, pid: int) -> bool:
        """True if a process belongs to the second machine."""
        raylet = self.second.all_processes["raylet"][0].process.pid
        try:
            return psutil.Process(pid).ppid() == raylet
        except psutil.Error:
            return False

    def lose_one(self) -> None:
        """Kill the second machine with everything on it."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.cluster.shutdown()


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TwoMachines]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    two = TwoMachines()
    yield two
    two.close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three files of short texts. The first texts are empty, so a block has no prediction."""
    folder = tmp_path / "rows"
    folder.mkdir()
    words = [row["text"].split() for row in text_rows(200)]
    texts = [" ".join(words[number % 200][: 3 + number % 9]) for number in range(ROWS)]
    texts[:1500] = [""] * 1500
    table = pa.table({"predicted_score": range(ROWS), "text": texts})
    for number, (start, stop) in enumerate(((0, 5001), (5001, 5002), (5002, ROWS))):
        pq.write_table(table.slice(start, stop - start), folder / f"{number}.parquet")
    pq.write_table(table, tmp_path / "rows.parquet")
    return folder


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen within 300 s"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a command that should succeed; return what it printed."""
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


def finished_parts(output: Path) -> int:
    return len(list(output.with_name(f"{output.name}.parts").glob("part-*.json")))


def test_predict_gives_all_rows_after_the_loss_of_a_machine(
    machines: TwoMachines, finished_run: Path, rows: Path, tmp_path: Path
) -> None:
    local, output = tmp_path / "local.parquet", tmp_path / "out.parquet"
    process = machines.start("predict", finished_run, rows, "-o", output)
    wait_until(lambda: finished_parts(output) >= 2, process)
    machines.lose_one()
    assert not output.exists()
    out = ended(process)
    assert f"{ROWS} rows written to {output}, {ROWS - 1500} with a prediction" in out
    assert "text is empty (1500)" in out
    assert finetune("predict", finished_run, rows.parent / "rows.parquet", "-o", local) == 0
    assert pq.read_table(output).equals(pq.read_table(local))
    assert not output.with_name("out.parquet.parts").exists()


def test_a_cluster_that_cannot_serve_is_refused(
    machines: TwoMachines, finished_run: Path, news_csv: Path, tmp_path: Path
) -> None:
    words = ["predict", finished_run, news_csv, "-o", tmp_path / "out.parquet"]
    process = machines.start(*words, "cpus=64")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "no machine of the cluster offers as many (the largest has 1); set cpus=1" in out
    machines.cluster.shutdown()
    process = machines.start(*words)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "no cluster can be reached there" in out


def test_embed_goes_on_after_the_command_was_killed(
    machines: TwoMachines, finished_run: Path, rows: Path, tmp_path: Path
) -> None:
    local, output = tmp_path / "local.parquet", tmp_path / "vectors"
    words = ["embed", finished_run, rows, "-o", output, "on_error=skip"]
    process = machines.start(*words)
    wait_until(lambda: finished_parts(output) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    out = ended(machines.start(*words))
    assert "blocks are there from an earlier start" in out
    assert f"{ROWS - 1500} vectors written to {output}, 1500 skipped" in out
    table = rows.parent / "rows.parquet"
    assert finetune("embed", finished_run, table, "-o", local, "on_error=skip") == 0
    parts = sorted(output.iterdir())
    assert [path.name for path in parts] == [f"part-{number:06d}.parquet" for number in range(12)]
    tables = [table for path in parts if len(table := pq.read_table(path))]
    assert pa.concat_tables(tables).equals(pq.read_table(local))


def test_predict_and_embed_in_python_take_rows_that_were_made_there(
    machines: TwoMachines, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    table = [{"number": number, **row} for number, row in enumerate(text_rows(1500))]
    for function, name in ((predict, "predicted.parquet"), (embed, "vectors.parquet")):
        shared, local = tmp_path / name, tmp_path / f"local-{name}"
        result = function(finished_run, table, shared, on="ray", cpus=1)
        assert result == (shared if function is predict else len(table))
        function(finished_run, table, local)
        assert pq.read_table(shared).equals(pq.read_table(local))
        assert {path.name for path in tmp_path.iterdir()} >= {name, f"local-{name}"}
        assert not list(tmp_path.glob("*.parts")) + list(tmp_path.glob("*.rows"))


def trials_of(folder: Path) -> list[dict[str, Any]]:
    table = pandas.read_parquet(folder / "trials.parquet").drop(columns=["seconds", "folder"])
    return json.loads(table.to_json(orient="records", double_precision=15))


@pytest.fixture
def words(bert_folder: Path, news_csv: Path, held_csv: Path) -> list[str]:
    words = ["search", "task=text-classification", f"model={bert_folder}", f"data.train={news_csv}"]
    words += [f"data.validation={held_csv}", f"data.test={held_csv}", "batch_size=16", "epochs=6"]
    words += ["method=full", "lr=log(1e-6,1e-2)", "trials=4", "sampler=random", "precision=fp32"]
    return [*words, "search.pruner=none", "train.best=-loss"]


def check_same_as_on_one_machine(words: list[str], folder: Path, runs: Path, local: Path) -> None:
    """Check a search with a lost machine whose results are in one folder, its runs in another."""
    logs = "".join(path.read_text() for path in (folder / "logs").iterdir())
    assert re.search(r"resuming from step [1-9]", logs), "the trial began anew"
    assert finetune(*words, f"search.dir={local}") == 0
    assert trials_of(folder) == trials_of(local)
    for number in range(4):
        for path in (local / f"trial-{number:03d}" / "final").glob("*.safetensors"):
            other = load_file(runs / path.relative_to(local))
            assert {name: tensor.tolist() for name, tensor in load_file(path).items()} == {
                name: tensor.tolist() for name, tensor in other.items()
            }
    assert "test" in json.loads((folder / best(folder) / "results.json").read_text())["metrics"]


def test_search_has_the_same_trials_after_the_loss_of_a_machine(
    machines: TwoMachines, words: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    process = machines.start(*words, f"search.dir={folder}")

    def runs_in_the_middle() -> bool:
        owners = [path.read_text() for path in folder.glob(".claims/*/.owner")]
        pids = [json.loads(text)["pid"] for text in owners if text]
        trials = [path.parent.name for path in folder.glob(".claims/*/.owner")]
        return any(
            machines.runs(pid) and list((folder / trial).glob("checkpoints/step-*"))
            for pid, trial in zip(pids, trials, strict=False)
        )

    wait_until(runs_in_the_middle, process)
    machines.lose_one()
    assert "a process of the cluster was lost" in ended(process)
    check_same_as_on_one_machine(words, folder, folder, tmp_path / "local")


def test_search_in_a_store_has_the_same_trials_after_the_loss_of_a_machine(
    machines: TwoMachines, words: list[str], tmp_path: Path
) -> None:
    folder, store = tmp_path / "results", tmp_path / "store"
    stored = [*words, f"search.dir={folder}", f"search.storage={store.as_uri()}"]
    process = machines.start(*stored)

    def runs_in_the_middle() -> bool:
        place = f"cache/search/*/{machines.second.node_id}/trial-*/checkpoints/step-*"
        trials = {path.parent.parent.name for path in tmp_path.glob(place)}
        return any(list((store / trial).glob("checkpoints/*/manifest.json")) for trial in trials)

    wait_until(runs_in_the_middle, process)
    machines.lose_one()
    assert "a process of the cluster was lost" in ended(process)
    check_same_as_on_one_machine(words, folder, store, tmp_path / "local")
    assert (store / "best.yaml").read_text() == (folder / "best.yaml").read_text()
    assert {path.parent.name for path in folder.glob("trial-*/final")} == {best(folder)}
    before = (store / "journal.jsonl").read_bytes()
    shutil.rmtree(folder)
    assert "best: trial" in ended(machines.start(*stored)), "it goes on from the store"
    assert (store / "journal.jsonl").read_bytes() == before


def best(folder: Path) -> str:
    table = pandas.read_parquet(folder / "trials.parquet")
    return Path(table.loc[table["loss"].idxmin(), "folder"]).name
