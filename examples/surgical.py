"""Custom method: train selected blocks of the network and the head.

"Surgical fine-tuning" (Lee et al. 2023, arXiv:2210.11466): under an input shift, such as another
camera or another spelling, tuning the first blocks works better than tuning the last ones.

    finetune train bbc-news method=examples/surgical.py:Surgical blocks=[0,1]
"""

from __future__ import annotations

import finetune as ft


class SurgicalConfig(ft.MethodConfig):
    """Keys of the method."""

    name: str = "examples/surgical.py:Surgical"
    blocks: tuple[int, ...] = (0,)
    """Blocks to train, counted from the input: 0 is the embeddings or the stem, -1 the last one."""


class Surgical(ft.Method):
    """Train selected blocks and the head; freeze all other blocks."""

    name = "surgical"
    Config = SurgicalConfig

    def recipe(self, kind: str) -> ft.Recipe:
        """Return the default learning rates and epochs for a kind of network."""
        lr = 5e-4 if kind == "cnn" else 1e-4
        return ft.Recipe(lr, 1e-3, 3, "a few blocks tolerate higher rates than the whole network")

    def apply(self, model: ft.TransferModel) -> list[str]:
        """Set which parameters are trained; return notes for the header of the run."""
        count = len(model.blocks)
        unknown = [block for block in self.config.blocks if not -count <= block < count]
        if unknown:
            raise ft.ModelError(
                f"method.blocks: there is no block {unknown[0]}; this network has {count}, "
                f"numbered 0 to {count - 1} from the input"
            )
        trained = {block % count for block in self.config.blocks}
        for _, parameter, part in ft.named_parts(model):
            parameter.requires_grad_(part == ft.HEAD or part in trained)
        return [f"surgical: training blocks {sorted(trained)} of {count}"]
