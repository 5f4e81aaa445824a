"""Attribution of an output to the words of a text, by integrated gradients over the embeddings.

Sundararajan et al. 2017, arXiv:1703.01365: the weights of all tokens add up to the change of the
output from a text of padding (completeness), but for the error of the numerical integration.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.distributed.devices import to_device
from finetune.errors import ConfigError
from finetune.model import TransferModel
from finetune.task_parts.views import Explanation
from tasks.audits.word_pieces import group_words, special_ids

INSTALL = "pip install 'finetune-kit[report]'"
STEPS = 24  # of the integral
IDS = "input_ids"


def attribute_words(
    model: TransferModel,
    layer: nn.Module,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    output: int,
) -> Explanation:
    """Explain one output for one text. `layer` embeds the ids of `inputs`, tensors [1, T].

    Raises ConfigError if captum is not installed.
    """
    try:
        from captum.attr import LayerIntegratedGradients
    except ModuleNotFoundError as missing:
        raise ConfigError(f"attribution: captum is not installed; {INSTALL}") from missing
    inputs = to_device(dict(inputs), next(model.parameters()).device)
    ids = inputs[IDS]
    others = [name for name in inputs if name != IDS]
    is_special = torch.isin(ids, torch.tensor(sorted(special_ids(tokenizer)), device=ids.device))
    baseline = torch.where(is_special, ids, tokenizer.pad_token_id)

    def compute(ids: Tensor, *rest: Tensor) -> Tensor:
        named = dict(zip(others, rest, strict=True))
        logits: Tensor = model({"inputs": {IDS: ids, **named}})
        return logits[:, output].float()

    rest = [inputs[name] for name in others]
    method = LayerIntegratedGradients(compute, layer)
    weights, _ = method.attribute(
        ids,
        baselines=baseline,
        additional_forward_args=tuple(rest),
        n_steps=STEPS,
        return_convergence_delta=True,
    )
    by_token = weights.sum(-1)[0].double().cpu()  # [T]
    with torch.inference_mode():
        start = layer(baseline)
        change = float(compute(ids, *rest))
        with _output_of(
            layer, start
        ):  # with the ids of the text, of which some networks count pads
            change -= float(compute(ids, *rest))
    error = abs(float(by_token.sum()) - change)
    words = group_words(tokenizer, ids[0].tolist())
    summed = [(word, float(by_token[group].sum())) for word, group in words]
    return Explanation(words=summed, note=_describe(change, error))


@contextmanager
def _output_of(layer: nn.Module, value: Tensor) -> Iterator[None]:
    """Replace the output of a layer."""
    handle = layer.register_forward_hook(lambda *_: value)
    try:
        yield
    finally:
        handle.remove()


def _describe(change: float, error: float) -> str:
    share = f" ({error / abs(change):.1%})" if change else ""
    return (
        f"Integrated gradients, {STEPS} steps, summed by word: all words change the output by "
        f"{change:+.3f}; completeness error {error:.3f}{share}."
    )
