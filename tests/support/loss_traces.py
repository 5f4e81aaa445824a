"""Loss traces and final weights of small runs, to compare two versions of the code bit for bit.

    git worktree add ../before COMMIT
    OMP_NUM_THREADS=1 python tests/support/loss_traces.py --kit ../before before.json
    OMP_NUM_THREADS=1 python tests/support/loss_traces.py after.json
    cmp before.json after.json

The helpers beside this file make networks and rows; the checkout given by `--kit` (by default this
one) trains. Every float is written in hexadecimal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

TIMINGS = ("samples_per_second", "seconds")  # of metrics.jsonl: they differ between equal runs

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parents[2]

TEXT = {"task": "text-classification", "batch_size": 12, "micro_batch": 5}
PROMPTS = {"task.prompt": "{text}\nTopic:", "task.completion": " {label}"}
WRITE = {"task": "text-generation", **PROMPTS, "batch_size": 12, "micro_batch": 5}
SEE = {"task": "image-classification", "batch_size": 8, "augmentation": "light"}
FIND = {"task": "object-detection", "batch_size": 8, "image_size": 64, "fpn_width": 64}
PAINT = {"task": "segmentation", "batch_size": 8, "image_size": [32, 48]}
# Name of a run -> its network, its data and its keys.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "text-full": ("bert", "news", {**TEXT, "method": "full", "optim.layer_decay": 0.9}),
    "text-lora": ("bert", "news", {**TEXT, "method": "lora", "train.sampling": "balanced"}),
    "text-frozen": ("bert", "news", {**TEXT, "method": "frozen"}),
    "text-partial": ("bert", "news", {**TEXT, "method": "partial", "method.unfreeze_every": 0.5}),
    "text-ema-bf16": ("bert", "news", {**TEXT, "method": "full", "ema": 0.9, "precision": "bf16"}),
    "text-split": ("bert", "news", {**TEXT, "method": "lora", "validation": 0.2, "test": 0.2}),
    "text-contrastive": ("bert", "news", {**TEXT, "method": "frozen", "contrastive": 3}),
    "text-pissa": ("bert", "news", {**TEXT, "method": "lora", "method.init": "pissa"}),
    "gpt2-lora": ("gpt2", "news", {**WRITE, "method": "lora"}),
    "llama-full": ("llama", "news", {**WRITE, "method": "full", "workers": 2}),
    "t5-partial": ("t5", "news", {**WRITE, "method": "partial"}),
    "image-full": ("timm", "shapes", {**SEE, "method": "full", "mixup": 0.2}),
    "image-frozen": ("timm", "shapes", {**SEE, "method": "frozen", "method.views": 2}),
    "image-lora": ("vit", "shapes", {**SEE, "method": "lora"}),
    "fcos-full": ("efficientnet", "scenes", {**FIND, "method": "full"}),
    "detr-lora": ("detr", "scenes", {**FIND, "method": "lora", "fpn_width": None}),
    "unet-full": ("timm", "scenes", {**PAINT, "method": "full", "augmentation": "light"}),
    "segformer-lora": ("segformer", "scenes", {**PAINT, "method": "lora"}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--kit", type=Path, default=ROOT, help="checkout whose code trains")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.kit.resolve()), str(ROOT)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FINETUNE_CACHE"] = str(folder / "cache")
        networks, rows = make_networks(folder / "networks"), make_rows(folder / "rows")
        traces = {
            case: trace(networks[network], rows[data], keys, folder / "runs" / case)
            for case, (network, data, keys) in CASES.items()
            if case in arguments.only
        }
    arguments.output.write_text(json.dumps(traces, indent=1) + "\n")
    print(f"{len(traces)} traces: {arguments.output}")


def make_networks(folder: Path) -> dict[str, Path]:
    from tests.support import tiny_detectors, tiny_models, tiny_scenes, tiny_vision

    return {
        "bert": tiny_models.tiny_bert(folder / "bert"),
        "gpt2": tiny_models.tiny_gpt2(folder / "gpt2"),
        "llama": tiny_models.tiny_llama(folder / "llama"),
        "t5": tiny_models.tiny_t5(folder / "t5", spread=1.0),
        "timm": tiny_vision.tiny_timm(folder / "timm"),
        "efficientnet": tiny_vision.tiny_timm(folder / "efficientnet", "test_efficientnet"),
        "vit": tiny_vision.tiny_vit(folder / "vit"),
        "detr": tiny_detectors.tiny_detector(folder / "detr", "detr"),
        "segformer": tiny_scenes.tiny_segformer(folder / "segformer"),
    }


def make_rows(folder: Path) -> dict[str, dict[str, str]]:
    from tests.support import tiny_models, tiny_scenes, tiny_vision

    folder.mkdir()
    shapes = [tiny_vision.shape_folder(folder / f"shapes{n}", 50, seed=n) for n in (0, 1)]
    news = [tiny_models.text_csv(folder / f"news{n}.csv", 50, seed=n) for n in (0, 1)]
    scenes = tiny_scenes.scene_folder(folder / "scenes")
    return {
        "news": {"train": str(news[0]), "validation": str(news[1])},
        "shapes": {"train": str(shapes[0]), "validation": str(shapes[1])},
        "scenes": {"source": str(scenes), "validation": "test"},
    }


def trace(network: Path, data: dict[str, str], keys: dict[str, Any], folder: Path) -> Any:
    """Train one run; return its logged metrics and the digests of its final tensors."""
    from safetensors.numpy import load_file

    import finetune

    arguments: dict[str, Any] = {f"data.{name}": value for name, value in data.items()}
    arguments |= {"model": str(network), "output": str(folder)}
    arguments |= {"epochs": 2, "precision": "fp32", "log_every": 1}
    arguments |= {name: value for name, value in keys.items() if value is not None}
    if "validation" in arguments:  # a share instead of a file
        arguments["data.validation"] = arguments.pop("validation")
    finetune.train(**arguments)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    history = [
        {name: hexadecimal(value) for name, value in line.items() if name not in TIMINGS}
        for line in lines
    ]
    final = {
        f"{path.relative_to(folder)}:{name}": hashlib.sha256(tensor.tobytes()).hexdigest()
        for path in sorted((folder / "final").rglob("*.safetensors"))
        for name, tensor in sorted(load_file(path).items())
    }
    return {"history": history, "final": final}


def hexadecimal(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


if __name__ == "__main__":
    main()
