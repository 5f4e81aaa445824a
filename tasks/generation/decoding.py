"""Decoding: batched, seeded text generation by greedy search, beam search or sampling."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.io.integrity import network_faults
from tasks.generation.generation_config import DecodingConfig


class Continuation(NamedTuple):
    """A generated text, without its prompt and without stop strings.

    `is_ended` is False if task.max_new_tokens ended it.
    """

    text: str
    is_ended: bool


def generate_texts(
    network: Any, tokenizer: Any, prompts: Mapping[str, Tensor], config: DecodingConfig
) -> list[str]:
    """Generate the continuation of each prompt, without the prompt and without stop strings."""
    return [each.text for each in continue_prompts(network, tokenizer, prompts, config)]


def continue_prompts(
    network: Any, tokenizer: Any, prompts: Mapping[str, Tensor], config: DecodingConfig
) -> list[Continuation]:
    """Generate the continuation of each prompt, and find out whether it ended by itself."""
    with torch.random.fork_rng(_devices(network)):
        if config.temperature > 0:
            # Hash the prompts into the seed, or every batch would draw the same numbers.
            prompt_hash = zlib.crc32(prompts["input_ids"].cpu().numpy().tobytes())
            mixed = np.random.SeedSequence([config.sampling_seed, prompt_hash]).generate_state(1)
            torch.manual_seed(int(mixed[0]))
        arguments = {
            "generation_config": _generation_config(network, tokenizer, config),
            "tokenizer": tokenizer,
            # transformers would synchronize the processes of a formerly sharded network at every
            # token. Each has all weights here, and some have fewer batches, so that would hang.
            "synced_gpus": False,
        }
        remedy = "correct its generation_config.json, or give another model"
        with network_faults("model.name", "the network cannot generate a text", remedy):
            ids = network.generate(**prompts, **arguments)
    if not network.config.is_encoder_decoder:
        ids = ids[:, prompts["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    stops = sorted(end_tokens(network, tokenizer))
    ends = torch.tensor(stops, dtype=torch.long, device=ids.device)
    has_end = torch.isin(ids[:, network.config.is_encoder_decoder :], ends).any(1).tolist()
    return [
        Continuation(short.strip(), is_ended or short != text)
        for text, is_ended in zip(texts, has_end, strict=True)
        for short in [_truncate_at(text, config.stop)]
    ]


def end_tokens(network: Any, tokenizer: Any) -> set[int]:
    """Return the end tokens of the network's generation config and of the tokenizer."""
    eos = network.generation_config.eos_token_id
    return {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None}


def _generation_config(network: Any, tokenizer: Any, config: DecodingConfig) -> Any:
    from transformers import GenerationConfig

    pretrained = network.generation_config
    samples = config.temperature > 0
    return GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        do_sample=samples,
        temperature=config.temperature if samples else 1.0,
        top_p=config.top_p,
        # Without sampling, any value but the default of 50 would trigger a warning.
        top_k=config.top_k or (0 if samples else 50),
        num_beams=config.beams,
        repetition_penalty=1.0,
        use_cache=True,
        stop_strings=config.stop or None,
        eos_token_id=sorted(end_tokens(network, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=pretrained.bos_token_id,
        decoder_start_token_id=pretrained.decoder_start_token_id,
        forced_bos_token_id=pretrained.forced_bos_token_id,
    )


def _devices(network: Any) -> list[int]:
    device = network.device
    return [device.index or 0] if device.type == "cuda" else []


def _truncate_at(text: str, stops: Sequence[str]) -> str:
    """Truncate a text at the first stop string."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
