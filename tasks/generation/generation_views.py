"""What people see of text generation: what carries loss, samples before and after training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune.model import TransferModel
from finetune.task_parts import CardFacts, Prediction, Row, Sample, Views
from tasks.generation.codecs import CausalCodec
from tasks.generation.generation_code import generation_card_code

if TYPE_CHECKING:
    from tasks.text_generation import TextGeneration

# Characters of a prompt that the table shows, its end: that is where the question stands.
SHOWN = 300


class Sampled(NamedTuple):
    """A prompt, what should be written, and what was."""

    prompt: str
    reference: str
    before: str
    after: str


def write_samples(samples: Sequence[Sampled], folder: Path) -> list[Path]:
    """samples.jsonl, and samples.md for people."""
    lines, table = folder / "samples.jsonl", folder / "samples.md"
    rows = [json.dumps(sample._asdict(), ensure_ascii=False) for sample in samples]
    lines.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    head = ["| " + " | ".join(Sampled._fields) + " |", "|---" * len(Sampled._fields) + "|"]
    body = ["| " + " | ".join(map(_cell, sample)) + " |" for sample in samples]
    table.write_text("\n".join([*head, *body, ""]), encoding="utf-8")
    return [lines, table]


def _cell(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return words if len(words) <= SHOWN else f"... {words[-SHOWN:]}"


class GenerationViews(Views):
    """Views of text generation."""

    length_unit = "tokens"

    def __init__(self, task: TextGeneration) -> None:
        self.task = task

    def show(self, sample: Sample) -> str:
        return self.task.codec_.show(sample)

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        config, codec = self.task.resolved_, self.task.codec_
        if not config.generate:
            return []
        asked = map(self.task.exchange, rows)
        cut = sum(codec.prompt_length(row).cut > 0 and not codec.length(row).cut for row in asked)
        room = f"to leave room for task.max_new_tokens={config.max_new_tokens}"
        said = f"{split}: {cut} of {len(rows)} prompts are cut where text is written, {room}"
        return [said] if cut else []

    def report_change(
        self,
        rows: Sequence[Row],
        before: Sequence[Prediction],
        after: Sequence[Prediction],
        folder: Path,
    ) -> list[Path]:
        texts = [[said["generated_text"] for said in some] for some in (before, after)]
        asked = [self.task.exchange(row).asked for row in rows]
        samples = zip(asked, map(self.task.reference, rows), *texts, strict=True)
        return write_samples([Sampled(*sample) for sample in samples], folder)

    def card(self, model: TransferModel) -> CardFacts:
        is_causal = isinstance(self.task.codec_, CausalCodec)
        codes = generation_card_code(self.task.resolved_, is_causal, self.task.template_)
        return CardFacts("text-generation", "transformers", *codes)
