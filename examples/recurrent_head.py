"""Custom task: text classification by a recurrent head on the token features of a frozen encoder.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}

    finetune train task=examples/recurrent_head.py:RecurrentHead method=frozen data=DATA model=MODEL

A bidirectional GRU (Cho et al. 2014, arXiv:1406.1078) reads the hidden states of all tokens, which
are computed once and cached: T x H values a row, where the plain head caches H. Measured beside the
plain head with `python benchmarks/other_heads.py`; docs/text-classification.md has the result.

Shapes: B rows, T tokens, H features, W values of a state of the GRU, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence

import finetune as ft
import tasks
from tasks.backbones.vector_heads import HEAD_FILE
from tasks.text.text_models import PooledTextModel, load_pooled


class RecurrentHeadConfig(tasks.TextClassificationConfig):
    """Keys of text classification, and the size of the recurrent head."""

    name: str = "examples/recurrent_head.py:RecurrentHead"
    max_length: int = 64
    """Maximum number of tokens, all of whose features are cached."""
    recurrent_size: int = 64
    """Number of values of a state of the GRU, in each direction."""


class RecurrentClassifier(nn.Module):
    """Hidden states [B, T, H], 0 behind the end of a text -> logits [B, C]."""

    def __init__(self, features: int, size: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, size, batch_first=True, bidirectional=True)
        self.logits = nn.Linear(2 * size, outputs)

    def forward(self, states: Tensor) -> Tensor:
        lengths = states.any(-1).sum(1).clamp(min=1).cpu()  # [B]
        packed = pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)  # [2, B, W]: the last state of each direction
        return self.logits(torch.cat([last[0], last[1]], dim=1))


class RecurrentModel(PooledTextModel):
    """An encoder whose head reads the states of all tokens.

    Attributes:
        length: number of tokens to which cached features are padded.
    """

    length = 0

    @property
    def feature_kind(self) -> str:
        return f"states of {self.length} tokens"

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the states of a row's tokens, padded with 0: {"states": [B, length, H]}."""
        states = self._states(inputs)
        return {"states": pad(states, (0, 0, 0, self.length - states.shape[1]))}

    def logits(self, batch: ft.Batch) -> Tensor:
        if "features" in batch:
            return self.head(batch["features"]["states"])
        return self.head(self._states(batch["inputs"]))

    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        states = self.network.backbone(**inputs).last_hidden_state.float()
        return states * inputs["attention_mask"].unsqueeze(-1)


class RecurrentHead(tasks.TextClassification):
    """Classification of texts by the order of their token features."""

    name = RecurrentHeadConfig.model_fields["name"].default
    Config = RecurrentHeadConfig

    def setup(self, train: Any, source: ft.ModelConfig, *, frozen: bool) -> list[str]:
        if self.resolved_.truncation == "windows":
            raise ft.ConfigError(
                "task.truncation=windows: the recurrent head reads one sequence; use head, tail or "
                "head-tail"
            )
        self.settle({"head": "pooled"})  # the head beside a bare encoder, which is replaced
        return super().setup(train, source, frozen=frozen)

    def build_model(self, source: ft.ModelConfig) -> ft.TransferModel:
        return self._with_recurrent_head(super().build_model(source))

    def load_model(self, source: ft.ModelConfig) -> ft.TransferModel:
        model = self._with_recurrent_head(load_pooled(source, self.pooling_, outputs=1))
        model.network.head.load_state_dict(load_file(Path(source.name) / HEAD_FILE))
        return model

    def _with_recurrent_head(self, pooled: Any) -> RecurrentModel:
        network, config, outputs = pooled.network, self.resolved_, len(self.targets.names)
        width = network.backbone.config.hidden_size
        network.head = RecurrentClassifier(width, config.recurrent_size, outputs)
        model = RecurrentModel(network)
        model.base, model.notes, model.length = pooled.base, pooled.notes, config.max_length
        return model
