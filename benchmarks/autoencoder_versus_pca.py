"""Reconstruction error of an autoencoder over that of PCA with as many values an image.

The encoder is a small ResNet of timm with random weights, 32 x 32 pixels; PCA is fitted to the same
training images at the same size, in gray. Both are measured on the same test images, of which none
selected anything.

    python examples/fashion_mnist.py --train 2000 --test 500
    python -m benchmarks.autoencoder_versus_pca --codes 16 --epochs 30

Prints the root mean squared error, in pixel values of 0 to 1, and the explained share of variance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32  # pixels


def parse_arguments() -> argparse.Namespace:
    """Parse the sizes of the code and of the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=int, nargs="+", default=[16])
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--data", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--folder", type=Path, default=Path("runs/autoencoder"))
    return parser.parse_args()


def write_network(folder: Path) -> str:
    """Save a ResNet with random weights as timm does; return its path."""
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    network.pretrained_cfg.update(input_size=(3, SIDE, SIDE), crop_pct=1.0)
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return str(folder)


def train(code: int, arguments: argparse.Namespace) -> Any:
    """Return the run of an autoencoder, trained unless it is there."""
    import finetune

    keys = {"mask_ratio": 0, "code_size": code, "pixel_loss": "l2", "augmentation": "none"}
    return finetune.train(
        {"name": "masked-image-modeling", **keys},
        data={"source": str(arguments.data), "validation": 0},
        model=write_network(arguments.folder / "network"),
        method="full",
        lr=2e-3,
        head_lr=2e-3,
        epochs=arguments.epochs,
        precision="fp32",
        output=str(arguments.folder / f"{code}-{arguments.epochs:g}"),
    )


def read_pixels(folder: Path, run: Any) -> np.ndarray:
    """Read the images of a split as the run's network does, in gray, [N, H * W] in 0..1."""
    import torch
    from PIL import Image

    from tasks.image.preprocessing import Preprocessing

    state = run.folder.read("final/task.json")["state"]["preprocessing"]
    preprocessing = Preprocessing.from_state(state)
    images = []
    for path in sorted(folder.rglob("*.png")):
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        images.append(preprocessing.fit(image)[0].flatten().numpy() / 255)
    return np.stack(images)


def pca_errors(train: np.ndarray, test: np.ndarray, code: int) -> tuple[float, float]:
    """Return the error of PCA on the test images, and the explained share of their variance."""
    mean = train.mean(0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:code]  # [code, H * W]
    restored = mean + (test - mean) @ directions.T @ directions
    squared = np.square(restored - test).mean()
    return float(np.sqrt(squared)), float(1 - squared / test.var())


def main() -> None:
    """Train, measure and print the table."""
    arguments = parse_arguments()
    rows = []
    for code in arguments.codes:
        run = train(code, arguments)
        parts = {name: read_pixels(arguments.data / name, run) for name in ("train", "test")}
        errors, explained = pca_errors(parts["train"], parts["test"], code)
        found = run.metrics["test"]
        rows.append(
            f"| {code} | {found['rmse']:.4f} | {errors:.4f} | {found['rmse'] / errors:.3f} | "
            f"{found['r2']:.4f} | {explained:.4f} |"
        )
    print("| code | autoencoder RMSE | PCA RMSE | ratio | autoencoder R2 | PCA R2 |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
