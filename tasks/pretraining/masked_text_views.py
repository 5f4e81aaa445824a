"""Views of masked language modeling: tokens and masks, filled texts, code for the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.model import TransferModel
from finetune.task_parts.samples import Prediction, Row, Sample, Stats
from finetune.task_parts.views import REPOSITORY, CardFacts, NamedRow, Outcome, Views
from tasks.audits.loss_sections import loss_section

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence
    from finetune.audit.sections import ReportSection
    from tasks.masked_language_modeling import MaskedLanguageModeling

CODE = """
from transformers import pipeline

pipe = pipeline("fill-mask", "{repository}")
print(pipe("A text with a {mask} in it."))
"""


class MaskedTextViews(Views):
    """Views of masked language modeling."""

    length_unit = "tokens"
    illustrated = 12

    def __init__(self, task: MaskedLanguageModeling) -> None:
        self.task = task

    def show(self, sample: Sample) -> str:
        """Return the tokens that the network reads, those to predict as «read, was»."""
        tokens = self._tokens(sample["inputs"]["input_ids"])
        was = self._tokens(sample.get("target", [])) or [""] * len(sample["positions"])
        for position, token in zip(sample["positions"], was, strict=True):
            tokens[position] = f"«{tokens[position]}{', ' if token else ''}{token}»"
        return " ".join(tokens)

    def metric_names(self) -> list[str]:
        return ["perplexity", "accuracy"]

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        """Return the share of predicted tokens that are right, and their mean loss."""
        losses = (stats["loss"] / stats["tokens"]).tolist()
        shares = (stats["correct"] / stats["tokens"]).tolist()
        return [
            Outcome({"accuracy": share, "loss": loss}, loss)
            for share, loss in zip(shares, losses, strict=True)
        ]

    def sections(self, evidence: Evidence) -> list[ReportSection]:
        sums, tokens = evidence.stats["loss"].double().numpy(), evidence.stats["tokens"].numpy()
        return [loss_section(sums, tokens, evidence.numbers)]

    def illustrate(
        self,
        rows: Sequence[NamedRow],
        stats: Stats,
        predict: Callable[[], Sequence[Prediction]],
        folder: Path,
    ) -> list[Path]:
        """Write masks.md: some held-out texts, what stood at each mask, what was predicted."""
        lines = ["| row | read | was | predicted |", "|---|---|---|---|"]
        for (name, row, _), prediction in zip(rows, predict(), strict=True):
            read = self.task.tokenizer_.decode(self.task.encode(row)["inputs"]["input_ids"])
            best = [fills[0]["token_str"] for fills in prediction["masks"]]
            cells = (name, read, prediction["was"], best)
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        path = folder / "masks.md"
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return [path]

    def present(self, prediction: Prediction) -> Any:
        """Return the fills of a text as the pipeline does: of one mask, or a list for each."""
        masks = prediction["masks"]
        if "was" in prediction:  # the pipeline refuses texts without masks
            return prediction
        return masks[0] if len(masks) == 1 else masks

    def card(self, model: TransferModel) -> CardFacts:
        code = CODE.format(repository=REPOSITORY, mask=self.task.tokenizer_.mask_token)
        return CardFacts("fill-mask", "transformers", code.strip() + "\n")

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        return self.task.tokenizer_.convert_ids_to_tokens(ids)  # type: ignore[no-any-return]


def _cell(value: str | list[str]) -> str:
    text = value if isinstance(value, str) else " ".join(value)
    return " ".join(text.split()).replace("|", "\\|")
