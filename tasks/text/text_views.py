"""Views of text classification: tokens, fragmented words, code for the model card."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

from finetune.batching.data_loader import encode_batch
from finetune.model import TransferModel
from finetune.task_parts.samples import Row, Sample
from finetune.task_parts.views import CardFacts, Explanation
from tasks.audits.token_attribution import attribute_words
from tasks.classification import classifier_code as code
from tasks.classification.label_views import LabelViews
from tasks.text.tokenization import tokenizer_content
from tasks.text.vocabulary import fragmented_words

if TYPE_CHECKING:
    from tasks.text_classification import TextClassification


class TextViews(LabelViews):
    """Views of text classification."""

    length_unit = "tokens"

    def __init__(self, task: TextClassification) -> None:
        super().__init__(task.targets_)
        self.task = task

    def metric_names(self) -> list[str]:
        return self.task.metric_names()

    def length_facts(self) -> Any:
        config, content = self.task.resolved_, tokenizer_content(self.task.tokenizer_)
        keys = ("max_length", "truncation", "window_overlap", "max_windows", "text", "join")
        return content and [content, {key: getattr(config, key) for key in keys}]

    def show(self, sample: Sample) -> str:
        ids = sample["inputs"]["input_ids"]
        return " ".join(self.task.tokenizer_.convert_ids_to_tokens(ids))

    def survey(self, rows: Sequence[Row]) -> dict[str, str]:
        words = fragmented_words(self.task.tokenizer_, self.task.rows.all_texts(rows))
        items = [f"{word} ({pieces} pieces, {count} times)" for word, pieces, count in words]
        finding = f"{', '.join(items)}; task.add_tokens makes a word a single token"
        return {"fragmented words": finding} if items else {}

    def explain(
        self, model: TransferModel, rows: Sequence[Row], outputs: Sequence[int]
    ) -> list[Explanation]:
        """Explain outputs by the words of the texts."""
        if self.task.resolved_.truncation == "windows":
            return [Explanation(note="A text that is read in windows is not explained.")] * len(
                rows
            )
        encoder: Any = model.encoder
        layer = encoder.get_input_embeddings()
        batches = [encode_batch(self.task, [row])["inputs"] for row in rows]
        return [
            attribute_words(model, layer, self.task.tokenizer_, inputs, output)
            for inputs, output in zip(batches, outputs, strict=True)
        ]

    def card(self, model: TransferModel) -> CardFacts:
        config, kind = self.task.resolved_, self.task.targets.problem_type
        is_pair = self.task.rows.is_pair
        values = {
            "labels": self.task.targets.names,
            "max_length": config.max_length,
            "several": ", top_k=None" if kind == "multi_label_classification" else "",
            "activation": code.ACTIVATIONS[kind],
            "texts": "*text" if is_pair else "text",
            "example": '("A text.", "Its pair.")' if is_pair else '"A text."',
            "sides": ', truncation_side="left"' if config.truncation == "tail" else "",
        }
        note = code.TRUNCATION_NOTES.get(config.truncation, "")
        if self.task.head_ == "pooled":
            values |= self._pooled(model)
            return CardFacts(config.name, code=note + code.fill_code(code.POOLED_TEXT, **values))
        native = code.fill_code(code.PAIR_OF_TEXTS if is_pair else code.TEXT, **values)
        # Added tokens are rows of the embedding, which an adapter does not contain.
        adapted = "" if config.add_tokens else note + code.fill_code(code.ADAPTED_TEXT, **values)
        return CardFacts(config.name, "transformers", note + native, adapted)

    def _pooled(self, model: TransferModel) -> dict[str, str]:
        """Return the values of placeholders that only the code for a pooled head has."""
        config, kind = self.task.resolved_, self.task.targets.problem_type
        has_pooler = "add_pooling_layer" in signature(type(model.encoder)).parameters
        return {
            "pooled": code.POOLED[self.task.pooling_],
            "scores": code.scores(code.ACTIVATIONS[kind], config.head_hidden),
            "no_pooler": ", add_pooling_layer=False" if has_pooler else "",
        }
