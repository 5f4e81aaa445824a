"""Writing text with a language model: greedy, by beams or by sampling, in batches, with a seed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from finetune.config.schema import TaskConfig


class DecodingConfig(TaskConfig):
    """How text is written."""

    max_new_tokens: PositiveInt = 64
    """Tokens that are written at most."""
    temperature: NonNegativeFloat = 0.0
    """0: the likeliest token each time; above: sampled, the more evenly the higher."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the likeliest tokens that together have this share of probability."""
    top_k: PositiveInt | None = None
    """Sample from so many of the likeliest tokens; null: from all."""
    beams: PositiveInt = 1
    """Texts that are followed at once; the likeliest one is taken."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Texts that end what is written, and are not part of it."""
    sampling_seed: Annotated[int, Field(ge=0)] = 0
    """Of what is sampled: the same prompts in the same batches give the same texts."""


def generate(
    network: Any, tokenizer: Any, prompts: Mapping[str, Tensor], config: DecodingConfig
) -> list[str]:
    """What the network writes after each prompt, without the prompt and without what ends it."""
    with torch.random.fork_rng(_devices(network)):
        if config.temperature > 0:
            # The prompts are in the seed: else every batch would draw the same numbers.
            told = zlib.crc32(prompts["input_ids"].cpu().numpy().tobytes())
            mixed = np.random.SeedSequence([config.sampling_seed, told]).generate_state(1)
            torch.manual_seed(int(mixed[0]))
        settings = _settings(network, tokenizer, config)
        # Every process holds all weights here, and some have fewer batches: they do not wait for
        # each other at every token, as transformers would have it for a network that was split.
        how = {"generation_config": settings, "tokenizer": tokenizer, "synced_gpus": False}
        written = network.generate(**prompts, **how)
    if not network.config.is_encoder_decoder:
        written = written[:, prompts["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [_before(text, config.stop).strip() for text in texts]


def end_tokens(network: Any, tokenizer: Any) -> set[int]:
    """The tokens that end what is written."""
    known = network.generation_config.eos_token_id
    return {*(known if isinstance(known, list) else [known]), tokenizer.eos_token_id} - {None}


def _settings(network: Any, tokenizer: Any, config: DecodingConfig) -> Any:
    from transformers import GenerationConfig

    held = network.generation_config
    samples = config.temperature > 0
    return GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        do_sample=samples,
        temperature=config.temperature if samples else 1.0,
        top_p=config.top_p,
        top_k=config.top_k or (0 if samples else 50),  # 50 is its default, so it warns of no such
        num_beams=config.beams,
        repetition_penalty=1.0,
        use_cache=True,
        stop_strings=config.stop or None,
        eos_token_id=sorted(end_tokens(network, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=held.bos_token_id,
        decoder_start_token_id=held.decoder_start_token_id,
        forced_bos_token_id=held.forced_bos_token_id,
    )


def _devices(network: Any) -> list[int]:
    device = network.device
    return [device.index or 0] if device.type == "cuda" else []


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
