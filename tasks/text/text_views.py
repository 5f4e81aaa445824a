"""What people see of text classification: tokens, words that are split, the code on a card."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING

from finetune.model import TransferModel
from finetune.task_parts import CardFacts, Row, Sample
from tasks.classification import classifier_code as code
from tasks.classification.label_views import LabelViews
from tasks.text.vocabulary import broken_words

if TYPE_CHECKING:
    from tasks.text_classification import TextClassification


class TextViews(LabelViews):
    """Views of text classification."""

    length_unit = "tokens"

    def __init__(self, task: TextClassification) -> None:
        super().__init__(task.targets_)
        self.task = task

    def show(self, sample: Sample) -> str:
        ids = sample["inputs"]["input_ids"]
        return " ".join(self.task.tokenizer_.convert_ids_to_tokens(ids))

    def survey(self, rows: Sequence[Row]) -> dict[str, str]:
        found = broken_words(self.task.tokenizer_, self.task.rows.all_texts(rows))
        named = [f"{word} ({pieces} pieces, {count} times)" for word, pieces, count in found]
        told = f"{', '.join(named)}; task.add_tokens keeps a word whole"
        return {"broken words": told} if named else {}

    def card(self, model: TransferModel) -> CardFacts:
        config, kind = self.task.resolved_, self.task.targets.problem_type
        is_pair = len(self.task.rows.inputs) == 2
        blanks = {
            "labels": self.task.targets.names,
            "max_length": config.max_length,
            "several": ", top_k=None" if kind == "multi_label_classification" else "",
            "activation": code.ACTIVATIONS[kind],
            "texts": "*text" if is_pair else "text",
            "example": '("A text.", "Its pair.")' if is_pair else '"A text."',
            "sides": ', truncation_side="left"' if config.truncation == "tail" else "",
        }
        note = code.CUT_OTHERWISE.get(config.truncation, "")
        if self.task.head_ == "pooled":
            blanks |= self._pooled(model)
            return CardFacts(config.name, code=note + code.fill_code(code.POOLED_TEXT, **blanks))
        native = code.fill_code(code.PAIR_OF_TEXTS if is_pair else code.TEXT, **blanks)
        # New words are rows of the embeddings, which an adapter has not.
        adapted = "" if config.add_tokens else note + code.fill_code(code.ADAPTED_TEXT, **blanks)
        return CardFacts(config.name, "transformers", note + native, adapted)

    def _pooled(self, model: TransferModel) -> dict[str, str]:
        """What the code for a pooled head has beside that for a native one."""
        config, kind = self.task.resolved_, self.task.targets.problem_type
        has_pooler = "add_pooling_layer" in signature(type(model.encoder)).parameters
        return {
            "pooled": code.POOLED[self.task.pooling_],
            "scores": code.scores(code.ACTIVATIONS[kind], config.head_hidden),
            "no_pooler": ", add_pooling_layer=False" if has_pooler else "",
        }
