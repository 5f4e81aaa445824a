"""Views of text generation: tokens with loss, samples from before and after training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune.model import TransferModel
from finetune.task_parts.samples import Prediction, Row, Sample, Stats, each_row
from finetune.task_parts.views import CardFacts, Outcome, Views
from tasks.generation.codecs import CausalCodec
from tasks.generation.generation_code import generation_card_code
from tasks.metrics.text_metrics import ROUGE

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence
    from finetune.audit.sections import ReportSection
    from tasks.text_generation import TextGeneration

# Characters of a text in the table; its end is shown, where a prompt has its question.
SHOWN_CHARACTERS = 300


class GeneratedSample(NamedTuple):
    """A prompt, the reference, and the texts generated before and after training."""

    prompt: str
    reference: str
    before: str
    after: str


def write_samples(samples: Sequence[GeneratedSample], folder: Path) -> list[Path]:
    """Write samples.jsonl, and the same as a table to samples.md."""
    lines, table = folder / "samples.jsonl", folder / "samples.md"
    rows = [json.dumps(sample._asdict(), ensure_ascii=False) for sample in samples]
    lines.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    fields = GeneratedSample._fields
    head = ["| " + " | ".join(fields) + " |", "|---" * len(fields) + "|"]
    body = ["| " + " | ".join(map(_cell, sample)) + " |" for sample in samples]
    table.write_text("\n".join([*head, *body, ""]), encoding="utf-8")
    return [lines, table]


def _cell(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return words if len(words) <= SHOWN_CHARACTERS else f"... {words[-SHOWN_CHARACTERS:]}"


class GenerationViews(Views):
    """Views of text generation."""

    length_unit = "tokens"

    def __init__(self, task: TextGeneration) -> None:
        self.task = task

    def show(self, sample: Sample) -> str:
        return self.task.codec_.show(sample)

    def metric_names(self) -> list[str]:
        scored = [*ROUGE, "bleu", "chrf"] if self.task.resolved_.generate else []
        return ["perplexity", *scored, *self.task.extra_metrics.names]

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        config, codec = self.task.resolved_, self.task.codec_
        if not config.scores_texts:
            return []
        exchanges = map(self.task.exchange, rows)
        cut = sum(codec.prompt_length(x).cut > 0 and not codec.length(x).cut for x in exchanges)
        note = (
            f"{split}: {cut} of {len(rows)} prompts are truncated for generation, to leave room "
            f"for task.max_new_tokens={config.max_new_tokens}"
        )
        return [note] if cut else []

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        """Return the reference, the generated text if there is one, and the mean loss of tokens.

        [] for running text, whose pieces would repeat it.
        """
        if self.task.resolved_.kind == "text":
            return []
        losses, outcomes = (stats["loss"] / stats["tokens"]).tolist(), []
        texts = [{"predicted": one["generated_text"]} for one in predictions] or [{}] * len(losses)
        for row, text, loss in zip(each_row(rows), texts, losses, strict=False):
            outcomes.append(Outcome({"true": self.task.reference(row), **text, "loss": loss}, loss))
        return outcomes

    def sections(self, evidence: Evidence) -> list[ReportSection]:
        from tasks.generation.generation_report import generation_sections  # evaluates models

        return generation_sections(self.task, evidence)

    def report_change(
        self,
        rows: Sequence[Row],
        before: Sequence[Prediction],
        after: Sequence[Prediction],
        folder: Path,
    ) -> list[Path]:
        texts = [[one["generated_text"] for one in predictions] for predictions in (before, after)]
        prompts = [self.task.exchange(row).prompt for row in rows]
        samples = zip(prompts, map(self.task.reference, rows), *texts, strict=True)
        return write_samples([GeneratedSample(*sample) for sample in samples], folder)

    def card(self, model: TransferModel) -> CardFacts:
        is_causal = isinstance(self.task.codec_, CausalCodec)
        codes = generation_card_code(self.task.resolved_, is_causal, self.task.template_)
        return CardFacts("text-generation", "transformers", *codes)
