"""Views of image classification: images as the network reads them, and model-card code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.batching.data_loader import encode_batch
from finetune.model import Batch, TransferModel
from finetune.task_parts.samples import Row, Sample
from finetune.task_parts.views import CardFacts, Explanation, Picture
from tasks.audits.class_activation import activation_maps, overlay
from tasks.classification import classifier_code as code
from tasks.classification.label_views import LabelViews
from tasks.image.picture_rows import RGB, as_rgb, describe_pixels
from tasks.image.preprocessing import INPUT, to_timm

if TYPE_CHECKING:
    from tasks.image_classification import ImageClassification


class ImageViews(LabelViews):
    """Views of image classification."""

    def __init__(self, task: ImageClassification) -> None:
        super().__init__(task.targets_)
        self.task = task

    def metric_names(self) -> list[str]:
        return self.task.metric_names()

    def show(self, sample: Sample) -> str:
        return describe_pixels(sample["inputs"][INPUT])

    def pictures(self, batch: Batch) -> list[Picture]:
        captions = [""] * len(batch["inputs"][INPUT])  # of rows without labels
        if "targets" in batch:
            targets = self.task.targets
            captions = [targets.describe(target) for target in batch["targets"].tolist()]
        if "mix" in batch:
            percent = round(100 * float(batch["mix"]["share"]))
            others = map(targets.describe, batch["mix"]["targets"].tolist())
            captions = [f"{a} {percent}%, {b}" for a, b in zip(captions, others, strict=True)]
        restored = map(self.task.preprocessing_.restore, batch["inputs"][INPUT].cpu())
        pixels = [as_rgb(image.permute(1, 2, 0).numpy()) for image in restored]
        return list(map(Picture, captions, pixels))

    def explain(
        self, model: TransferModel, rows: Sequence[Row], outputs: Sequence[int]
    ) -> list[Explanation]:
        """Explain outputs by heat maps; [] for a network without features of places."""
        batch = encode_batch(self.task, rows)
        maps = activation_maps(model, INPUT, batch["inputs"][INPUT], outputs)
        if maps is None:
            return []
        names = self.task.targets.names
        return [
            Explanation(pictures=[Picture(f"Grad-CAM of {names[n]!r}", overlay(p.pixels, heat))])
            for n, p, heat in zip(outputs, self.pictures(batch), maps, strict=True)
        ]

    def card(self, model: TransferModel) -> CardFacts:
        config, kind = self.task.resolved_, self.task.targets.problem_type
        processor = self.task.processor_
        if config.pixel_range is not None or self.task.preprocessing_.channels != RGB:
            # Code for plain libraries would convert the images to 8-bit RGB, unlike training.
            return CardFacts(base=None if processor else self._base_on_hub(model))
        blanks = {
            "labels": self.task.targets.names,
            "several": ", top_k=None" if kind == "multi_label_classification" else "",
            "activation": code.ACTIVATIONS[kind],
            "preprocessing": processor or to_timm(self.task.preprocessing_),
        }
        if config.head_hidden:
            blanks["place"] = model.heads[0]
            blanks["scores"] = code.scores(code.ACTIVATIONS[kind], config.head_hidden)
            text = code.fill_code(
                code.HIDDEN_IMAGE if processor else code.HIDDEN_TIMM_IMAGE, **blanks
            )
            return CardFacts(config.name, code=text, base=self._base_on_hub(model))
        if processor is not None:
            whole, adapted = code.IMAGE, code.ADAPTED_IMAGE
            library, base = "transformers", None
        else:
            whole, adapted = code.TIMM_IMAGE, code.ADAPTED_TIMM_IMAGE
            library, base = "timm", self._base_on_hub(model)
        return CardFacts(
            config.name,
            library,
            code.fill_code(whole, **blanks),
            code.fill_code(adapted, **blanks),
            base,
        )

    def _base_on_hub(self, model: TransferModel) -> str | None:
        """Return the hub id of a timm architecture with its original weights.

        None: model.name is the base; "": custom weights without a hub id.
        """
        source = self.task.source_.model if hasattr(self.task, "source_") else None
        if source is None or not source.name.startswith("timm/"):
            return None
        config: Any = model.network.pretrained_cfg
        return "" if source.weights else str(config.get("hf_hub_id") or "")
