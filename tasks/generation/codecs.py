"""How what is asked and what is answered become tokens and batches: two kinds of network.

A causal network reads both in one row of tokens, and rows may share a bin. A sequence-to-sequence
network reads what is asked and writes the answer beside it.

Shapes: B rows, K bins, T tokens, N positions that carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from finetune.model import Batch
from finetune.task_parts import Length, Sample
from tasks.generation.dialogues import Piece
from tasks.generation.packing import Bins, computed, pack
from tasks.generation.prompts import Exchange, PromptConfig
from tasks.generation.tokens import Tokens, Truncation, begin, cut, end, start_token, tail, tokenize
from tasks.text.tokenization import pad_tokens


class CodecConfig(PromptConfig):
    """How much is read of a row."""

    max_length: PositiveInt = 1024
    """Tokens of a row that the network reads, its completion included; of a sequence-to-sequence
    network, of each side.
    """
    truncation: Truncation | None = None
    """What is done with a row that is too long.

    prompt: the start of its prompt is cut; end: its end is cut; drop: it is left out; refuse: the
    run ends. null: prompt for rows of prompt and completion, else end.
    """
    packing: bool | None = None
    """Whether rows share a row of tokens; null: if the network keeps them apart."""


@dataclass(frozen=True)
class Codec:
    """What both kinds share.

    Attributes:
        longest: tokens that are read of a row, or of each side of it.
        longest_prompt: tokens that are read of what is to be answered.
    """

    tokenizer: Any
    longest: int
    longest_prompt: int
    truncation: Truncation

    def length(self, row: Exchange) -> Length:
        """Tokens that are read and that are cut; none are read of a row that loses its answer."""
        raise NotImplementedError

    def prompt_length(self, row: Exchange) -> Length:
        """Tokens of what is asked that are read and that are cut."""
        raise NotImplementedError

    def encode(self, row: Exchange) -> Sample:
        raise NotImplementedError

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Inputs, targets and count of rows that are answered."""
        raise NotImplementedError

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """What is asked, as a network takes it that is to answer."""
        raise NotImplementedError

    def show(self, sample: Sample) -> str:
        """The text of a sample with what carries loss between guillemets."""
        raise NotImplementedError

    def cost(self, lengths: Sequence[int]) -> int:
        """Tokens that are computed for a batch of rows of these lengths."""
        return max(lengths) * len(lengths)


@dataclass(frozen=True)
class CausalCodec(Codec):
    """One row of tokens for both sides.

    Attributes:
        start: the token that begins a text; None: none does.
        is_closed: whether a text is begun and ended here, or by a template of its own.
        packs: whether rows share a bin.
    """

    start: int | None = None
    is_closed: bool = True
    packs: bool = False

    def length(self, row: Exchange) -> Length:
        if row.pieces is None:
            return self.prompt_length(row)
        whole = self._whole(row.pieces)
        used = cut(whole, self.longest, self.truncation, self._kept)
        return Length(len(used.ids) if used.learned_count else 0, len(whole.ids) - len(used.ids))

    def prompt_length(self, row: Exchange) -> Length:
        asked = self._asked(row)
        read = len(self._prompt(asked))
        return Length(read, max(len(asked) - read, 0))

    def encode(self, row: Exchange) -> Sample:
        prompt = self._prompt(self._asked(row))
        if row.pieces is None:
            return {"inputs": {"input_ids": prompt, "prompt_ids": prompt}}
        tokens = cut(self._whole(row.pieces), self.longest, self.truncation, self._kept)
        return {
            "inputs": {"input_ids": tokens.ids, "prompt_ids": prompt},
            "target": tokens.is_learned,
        }

    def collate(self, samples: Sequence[Sample]) -> Batch:
        rows = [Tokens(sample["inputs"]["input_ids"], sample["target"]) for sample in samples]
        bins = self._bins([len(row.ids) for row in rows])
        size = max(sum(len(rows[row].ids) for row in members) for members in bins)
        shape = (len(bins), size)
        ids = torch.full(shape, self.tokenizer.pad_token_id)
        positions = torch.arange(size).repeat(len(bins), 1)
        segments = torch.zeros(shape, dtype=torch.long)
        found: list[tuple[int, int, int]] = []  # (position that carries loss, its token, its row)
        for number, members in enumerate(bins):
            start = 0
            for row in members:
                stop = start + len(rows[row].ids)
                ids[number, start:stop] = torch.tensor(rows[row].ids)
                positions[number, start:] -= int(positions[number, start])
                segments[number, start:] += 1
                found += _learned(rows[row], number * size + start, row)
                start = stop
            # Padding is a row of its own.
            if start < size:
                positions[number, start:] -= int(positions[number, start])
                segments[number, start:] += 1
        inputs = {"input_ids": ids}
        if len(bins) < len(rows):
            inputs |= {"position_ids": positions, "segments": segments}
        return _batch(inputs, sorted(found, key=lambda item: item[2]), len(rows))

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Padded on the left, since what is written goes on at the right."""
        ids = [sample["inputs"]["prompt_ids"] for sample in samples]
        longest = max(map(len, ids))
        spaces = [longest - len(row) for row in ids]
        filling = self.tokenizer.pad_token_id
        rows = [[filling] * space + row for space, row in zip(spaces, ids, strict=True)]
        masks = [[0] * space + [1] * (longest - space) for space in spaces]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}

    def cost(self, lengths: Sequence[int]) -> int:
        return computed(lengths, self._bins(lengths))

    def show(self, sample: Sample) -> str:
        ids = sample["inputs"]["input_ids"]
        pairs = zip(sample.get("target", [False] * len(ids)), ids, strict=True)
        runs = [(told, [token for _, token in run]) for told, run in groupby(pairs, itemgetter(0))]
        texts = [(told, self.tokenizer.decode(run)) for told, run in runs]
        return "".join(f"«{text}»" if told else text for told, text in texts)

    @property
    def _kept(self) -> int:
        return int(self.start is not None)

    def _whole(self, pieces: Sequence[Piece]) -> Tokens:
        tokens = tokenize(self.tokenizer, pieces)
        if not self.is_closed:
            return tokens
        return end(begin(tokens, self.start), self.tokenizer.eos_token_id)

    def _asked(self, row: Exchange) -> list[int]:
        tokens = tokenize(self.tokenizer, [Piece(row.asked, False)])
        return (begin(tokens, self.start) if self.is_closed else tokens).ids

    def _prompt(self, asked: list[int]) -> list[int]:
        nothing = self.tokenizer.eos_token_id if self.start is None else self.start
        return tail(asked, self.longest_prompt, self._kept) or [nothing]

    def _bins(self, lengths: Sequence[int]) -> Bins:
        return pack(lengths, self.longest) if self.packs else [[row] for row in range(len(lengths))]


@dataclass(frozen=True)
class Seq2SeqCodec(Codec):
    """What is asked for the encoder, the answer for the decoder.

    Attributes:
        decoder_start: the token that the decoder reads before the first of an answer.
    """

    decoder_start: int = 0

    def length(self, row: Exchange) -> Length:
        asked = self.prompt_length(row)
        source, over = asked.used, asked.cut
        if row.answer is None:
            # A dialogue that ends with a question teaches nothing.
            return Length(source if row.pieces is None else 0, over)
        target = self._target(row.answer)
        over += max(len(target) - self.longest, 0)
        if over and self.truncation in ("drop", "refuse"):
            return Length(0, over)
        return Length(source + min(len(target), self.longest), over)

    def prompt_length(self, row: Exchange) -> Length:
        source = self.tokenizer(row.asked).input_ids
        read = min(len(source), self.longest)
        return Length(read, len(source) - read)

    def encode(self, row: Exchange) -> Sample:
        self.tokenizer.truncation_side = "left" if self.truncation == "prompt" else "right"
        ids = self.tokenizer(row.asked, truncation=True, max_length=self.longest).input_ids
        sample: Sample = {"inputs": {"input_ids": ids, "prompt_ids": ids}}
        if row.answer is not None:
            sample["target"] = self._target(row.answer)[: self.longest]
        return sample

    def collate(self, samples: Sequence[Sample]) -> Batch:
        targets = [sample["target"] for sample in samples]
        read = [{"input_ids": [self.decoder_start, *ids[:-1]]} for ids in targets]
        filling = self.tokenizer.pad_token_id
        inputs = self.prompts(samples) | {
            "decoder_input_ids": pad_tokens(read, filling)["input_ids"]
        }
        width = inputs["decoder_input_ids"].shape[1]
        found = [
            (row * width + place, token, row)
            for row, ids in enumerate(targets)
            for place, token in enumerate(ids)
        ]
        return _batch(inputs, found, len(samples))

    def show(self, sample: Sample) -> str:
        asked = self.tokenizer.decode(sample["inputs"]["input_ids"])
        answered = self.tokenizer.decode(sample["target"]) if "target" in sample else ""
        return f"{asked} «{answered}»"

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        sources = [sample["inputs"]["input_ids"] for sample in samples]
        masked = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sources]
        return pad_tokens(masked, self.tokenizer.pad_token_id)

    def _target(self, answer: str) -> list[int]:
        ids: list[int] = self.tokenizer(text_target=answer).input_ids
        last = self.tokenizer.eos_token_id
        return ids if last is None or ids[-1:] == [last] else [*ids, last]


def make_codec(
    config: CodecConfig, tokenizer: Any, network: Any, room: int | None, packs: bool
) -> Codec:
    """The codec for a network, by its config; `room` is what an answer leaves to a prompt."""
    is_causal = not network.is_encoder_decoder
    usual: Truncation = "prompt" if config.kind == "prompt" and is_causal else "end"
    how = config.truncation or usual
    if not is_causal:
        start = network.decoder_start_token_id
        return Seq2SeqCodec(tokenizer, config.max_length, config.max_length, how, start)
    longest_prompt = min(config.max_length, max(room or config.max_length, 1))
    start, is_closed = start_token(tokenizer), config.kind != "chat"
    facts = (tokenizer, config.max_length, longest_prompt, how)
    return CausalCodec(*facts, start, is_closed, packs)


def _learned(row: Tokens, first: int, number: int) -> list[tuple[int, int, int]]:
    """The positions that must say the learned tokens of a row which begins at `first`."""
    return [
        (first + place, row.ids[place + 1], number)
        for place, is_learned in enumerate(row.is_learned[1:])
        if is_learned
    ]


def _batch(inputs: dict[str, Tensor], found: Sequence[tuple[int, int, int]], rows: int) -> Batch:
    """Of `found`, which is (position, token, row): targets "ids", "rows" [N] and "tokens" [B].

    The inputs get "positions" [N], numbers in the flattened tokens.
    """
    positions, ids, owners = torch.tensor(found, dtype=torch.long).reshape(-1, 3).T.contiguous()
    return {
        "inputs": {**inputs, "positions": positions},
        "targets": {"ids": ids, "rows": owners, "tokens": owners.bincount(minlength=rows)},
        "count": {"loss": torch.tensor(float(len(ids)))},
    }
