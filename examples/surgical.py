"""A method of one's own: only chosen blocks of the network, and the head, are trained.

"Surgical fine-tuning" (Lee et al. 2023, arXiv:2210.11466): where the inputs changed, by another
camera or another spelling, tuning the first blocks serves better than tuning the last ones.

    finetune train bbc-news method=examples/surgical.py:Surgical blocks=[0,1]
"""

from __future__ import annotations

import finetune as ft


class SurgicalConfig(ft.MethodConfig):
    """Which blocks are trained."""

    name: str = "examples/surgical.py:Surgical"
    blocks: tuple[int, ...] = (0,)
    """Blocks to train, counted from the input: 0 is the embeddings or the stem; -1 the last one."""


class Surgical(ft.Method):
    """Chosen blocks and the head are trained; all other blocks stay as they were pretrained."""

    name = "surgical"
    Config = SurgicalConfig

    def recipe(self, kind: str) -> ft.Recipe:
        """Rates and epochs that are used where the config gives none."""
        rate = 5e-4 if kind == "cnn" else 1e-4
        return ft.Recipe(rate, 1e-3, 3, "a few blocks take more change than the whole network")

    def apply(self, model: ft.TransferModel) -> list[str]:
        """Settle which parameters are trained; return sentences for the header of the run."""
        count = len(model.blocks)
        unknown = [block for block in self.config.blocks if not -count <= block < count]
        if unknown:
            raise ft.ModelError(
                f"method.blocks: there is no block {unknown[0]}; this network has {count}, "
                f"numbered 0 to {count - 1} from the input"
            )
        chosen = {block % count for block in self.config.blocks}
        for _, parameter, part in ft.named_parts(model):
            parameter.requires_grad_(part == ft.HEAD or part in chosen)
        return [f"surgical: blocks {sorted(chosen)} of {count} are trained"]
