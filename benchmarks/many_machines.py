"""Seconds and bytes a row of `finetune predict on=ray`, on two machines that are processes of one.

    python -m benchmarks.many_machines RUN --rows 100000 --words 10

Needs the extra `ray`. RUN is a text classifier. Processor time is that of all processes of the
cluster and of the command, from the first row to the output; the start of the cluster is left out.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 4
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SECONDS_BETWEEN_LOOKS = 0.5
WORDS = ("shares", "match", "film", "minister", "phone", "the", "rose", "after", "said", "new")


def write_rows(folder: Path, rows: int, words: int) -> int:
    """Write rows of random words to Parquet files; return their bytes."""
    rng, folder_rows = random.Random(0), -(-rows // FILES)
    folder.mkdir(parents=True)
    for number in range(FILES):
        count = min(folder_rows, rows - number * folder_rows)
        texts = [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]
        pq.write_table(pa.table({"text": texts}), folder / f"{number}.parquet")
    return size_of(folder)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


class ProcessorTime:
    """Processor seconds of processes and their descendants, also of those that have ended."""

    def __init__(self, roots: list[int]) -> None:
        self._roots = roots
        self._seconds: dict[tuple[int, float], float] = {}

    def look(self) -> float:
        """Return the seconds so far, by command."""
        for root in self._roots:
            try:
                process = psutil.Process(root)
                for each in (process, *process.children(recursive=True)):
                    times = each.cpu_times()
                    self._seconds[each.pid, each.create_time()] = times.user + times.system
            except psutil.Error:
                continue
        return sum(self._seconds.values())


def main() -> None:
    """Measure one prediction of all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--command", choices=["predict", "embed"], default="predict")
    given = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**MACHINE, "include_dashboard": False})
    second = cluster.add_node(**MACHINE)
    raylets = [node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, second)]
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place) / "rows", Path(place) / "output"
        read = write_rows(folder, given.rows, given.words)
        command = [sys.executable, "-m", "finetune", given.command, given.run, str(folder)]
        words = ["-o", str(output), "on=ray", *(["on_error=skip"] * (given.command == "embed"))]
        started = time.perf_counter()
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        process = subprocess.Popen([*command, *words], env=environment)
        seconds = ProcessorTime([*raylets, process.pid])
        while process.poll() is None:
            seconds.look()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        wall, processor = time.perf_counter() - started, seconds.look()
        assert process.returncode == 0
        written = size_of(output)
        rows = sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet"))
    cluster.shutdown()
    assert rows == given.rows
    print(f"{rows} rows: {wall:.1f} s by the clock, {processor:.1f} s of processor time")
    print(f"{1000 * processor / rows:.3f} ms of processor time a row")
    print(f"{read / rows:.1f} bytes a row read, {written / rows:.1f} written")


if __name__ == "__main__":
    main()
