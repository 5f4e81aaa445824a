"""Encoding and collating of prompts and answers, for causal and sequence-to-sequence networks.

A causal network reads prompt and answer as one sequence, and rows may share a bin. A
sequence-to-sequence network encodes the prompt and decodes the answer.

Shapes: B rows, K bins, T tokens, N positions that carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from finetune.model import Batch
from finetune.task_parts.samples import Length, Sample
from tasks.generation.generation_config import CodecConfig, Truncation
from tasks.generation.packing import Bins, pack, padded_tokens
from tasks.generation.tokens import (
    Tokens,
    add_end_token,
    add_start_token,
    shorten_pieces,
    start_token,
    tokenize_pieces,
    truncate_prompt,
    truncate_tokens,
)
from tasks.prompts.dialogues import Piece
from tasks.prompts.prompts import Exchange
from tasks.text.long_texts import COUNTED, PART, estimate_tokens, is_long, shorten_text
from tasks.text.tokenization import pad_tokens, token_lengths


@dataclass(frozen=True)
class Codec:
    """Base of both codecs.

    Attributes:
        max_length: maximum number of tokens of a row, or of each side of it.
        max_prompt_length: maximum number of tokens of a prompt at inference.
    """

    tokenizer: Any
    max_length: int
    max_prompt_length: int
    truncation: Truncation

    def length(self, row: Exchange) -> Length:
        """Return the length in training; 0 if truncation leaves no token with loss."""
        raise NotImplementedError

    def prompt_length(self, row: Exchange) -> Length:
        """Return the length of the prompt at inference."""
        raise NotImplementedError

    def encode(self, row: Exchange) -> Sample:
        raise NotImplementedError

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate labeled samples: "inputs", "targets" and "count"."""
        raise NotImplementedError

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Collate the prompts for generation."""
        raise NotImplementedError

    def show(self, sample: Sample) -> str:
        """Decode a sample, with the tokens that carry loss between guillemets."""
        raise NotImplementedError

    def learned(self, sample: Sample) -> Tokens:
        """Return the tokens of a labeled sample in reading order, and which of them carry loss."""
        raise NotImplementedError

    def cost(self, lengths: Sequence[int]) -> int:
        """Count the tokens computed for a batch of rows of these lengths, padding included."""
        return max(lengths) * len(lengths)


@dataclass(frozen=True)
class CausalCodec(Codec):
    """Encodes prompt and answer as one sequence.

    Attributes:
        start: start token of a text; None if it has none.
        adds_ends: True if start and end tokens are added here, False if the chat template does it.
        packs: True if rows share bins.
    """

    start: int | None = None
    adds_ends: bool = True
    packs: bool = False
    _kept: dict[tuple[Piece, ...], Tokens] = field(default_factory=dict, compare=False, repr=False)

    def length(self, row: Exchange) -> Length:
        if row.sequences is None:
            return self.prompt_length(row)
        sequences, more = zip(*map(self._counted, row.sequences), strict=True)
        whole = [self._tokenize(pieces) for pieces in sequences]
        keep = self._keep_start(row)
        read = [self._truncate(tokens, keep) for tokens in whole]
        used = sum(len(tokens.ids) for tokens in read if tokens.target_count)
        cut = sum(len(tokens.ids) for tokens in whole) - sum(len(tokens.ids) for tokens in read)
        return Length(used, cut + sum(more), is_estimate=any(more))

    def prompt_length(self, row: Exchange) -> Length:
        pieces, more = self._counted(_prompt_pieces(row))
        whole = self._tokenize_prompt(pieces)
        read = len(self._truncate_prompt(whole, self._keep_start(row)))
        return Length(read, max(len(whole) + more - read, 0), is_estimate=more > 0)

    def encode(self, row: Exchange) -> Sample:
        keep = self._keep_start(row)
        pieces, _ = shorten_pieces(self.tokenizer, _prompt_pieces(row), self.max_length)
        prompt = self._truncate_prompt(self._tokenize_prompt(pieces), keep)
        if row.sequences is None:
            return {"inputs": {"input_ids": prompt, "prompt_ids": prompt}}
        short = [
            shorten_pieces(self.tokenizer, pieces, self.max_length)[0] for pieces in row.sequences
        ]
        read = [self._truncate(self._tokenize(pieces), keep) for pieces in short]
        learned = [tokens for tokens in read if tokens.target_count]
        return self._sample(learned or read[:1], prompt)

    def whole(self, row: Exchange) -> Tokens:
        """Return all tokens of a row of plain text, with its start and end token."""
        assert row.sequences is not None
        return self._tokenize(row.sequences[0])

    def encode_tokens(self, tokens: Tokens) -> Sample:
        """Encode a piece of a longer text."""
        return self._sample(
            [tokens], self._truncate_prompt(tokens.ids, int(self.start is not None))
        )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        rows, owners = list[Tokens](), list[int]()  # sequences, and the sample of each
        for owner, sample in enumerate(samples):
            sequences = _sequences(sample)
            rows += sequences
            owners += [owner] * len(sequences)
        bins = self._bins([len(row.ids) for row in rows])
        size = max(sum(len(rows[row].ids) for row in members) for members in bins)
        shape = (len(bins), size)
        ids = torch.full(shape, self.tokenizer.pad_token_id)
        positions = torch.arange(size).repeat(len(bins), 1)
        boundaries = [0]
        targets: list[tuple[int, int, int]] = []  # (position that carries loss, its target, row)
        for number, members in enumerate(bins):
            start = 0
            for row in members:
                stop = start + len(rows[row].ids)
                ids[number, start:stop] = torch.tensor(rows[row].ids)
                positions[number, start:] -= int(positions[number, start])
                targets += _shifted_targets(rows[row], number * size + start, owners[row])
                boundaries.append(number * size + stop)
                start = stop
            # Padding is a row of its own.
            if start < size:
                positions[number, start:] -= int(positions[number, start])
                boundaries.append((number + 1) * size)
        inputs = {"input_ids": ids}
        if len(bins) < len(rows):
            ends = torch.tensor(boundaries, dtype=torch.int32)
            inputs |= {"position_ids": positions, "boundaries": ends}
        return _batch(inputs, sorted(targets, key=lambda item: item[2]), len(samples))

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Collate the prompts, padded on the left, since generation continues on the right."""
        ids = [sample["inputs"]["prompt_ids"] for sample in samples]
        longest = max(map(len, ids))
        pads = [longest - len(row) for row in ids]
        pad_id = self.tokenizer.pad_token_id
        rows = [[pad_id] * pad + row for pad, row in zip(pads, ids, strict=True)]
        masks = [[0] * pad + [1] * (longest - pad) for pad in pads]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}

    def cost(self, lengths: Sequence[int]) -> int:
        return padded_tokens(lengths, self._bins(lengths))

    def learned(self, sample: Sample) -> Tokens:
        sequences = _sequences(sample)
        # Nothing precedes the first token of a sequence, so it has no loss.
        masks = [[False, *tokens.loss_mask[1:]] for tokens in sequences]
        ids = [index for tokens in sequences for index in tokens.ids]
        return Tokens(ids, [has_loss for mask in masks for has_loss in mask])

    def show(self, sample: Sample) -> str:
        shown = []
        for tokens in _sequences(sample):
            runs = [
                (has_loss, self.tokenizer.decode([token for _, token in run]))
                for has_loss, run in groupby(
                    zip(tokens.loss_mask, tokens.ids, strict=True), itemgetter(0)
                )
            ]
            shown.append("".join(f"«{text}»" if has_loss else text for has_loss, text in runs))
        return "\n".join(shown)

    def _keep_start(self, row: Exchange) -> int:
        """Count the tokens at the start of a row that truncation keeps: its header, or <s>."""
        if not row.header:
            return int(self.start is not None)
        text = shorten_text(self.tokenizer, row.header, self.max_prompt_length)
        header = tokenize_pieces(self.tokenizer, [Piece(text, False)])
        return min(len(header.ids), self.max_prompt_length // 2)

    def _counted(self, pieces: Sequence[Piece]) -> tuple[Sequence[Piece], int]:
        """Return the pieces to count; of huge ones the first and last tokens, and how many more."""
        if sum(len(piece.text) for piece in pieces) <= COUNTED:
            return pieces, 0
        return shorten_pieces(self.tokenizer, pieces, self.max_length)

    def _tokenize(self, pieces: Sequence[Piece]) -> Tokens:
        tokens = self._pieces(pieces)
        if not self.adds_ends:
            return tokens
        return add_end_token(add_start_token(tokens, self.start), self.tokenizer.eos_token_id)

    def _pieces(self, pieces: Sequence[Piece]) -> Tokens:
        """Tokenize pieces. The last two long texts are kept, since each is read several times."""
        if sum(len(piece.text) for piece in pieces) <= PART:
            return tokenize_pieces(self.tokenizer, pieces)
        key = tuple(pieces)
        if key not in self._kept:
            for old in list(self._kept)[:-1]:
                del self._kept[old]
            self._kept[key] = tokenize_pieces(self.tokenizer, pieces)
        return self._kept[key]

    def _sample(self, sequences: Sequence[Tokens], prompt: list[int]) -> Sample:
        """Make a sample of all tokens; if there are several sequences, it has their lengths."""
        ids = [token for tokens in sequences for token in tokens.ids]
        inputs: dict[str, Any] = {"input_ids": ids, "prompt_ids": prompt}
        if len(sequences) > 1:
            inputs["sequences"] = [len(tokens.ids) for tokens in sequences]
        target = [has_loss for tokens in sequences for has_loss in tokens.loss_mask]
        return {"inputs": inputs, "target": target}

    def _tokenize_prompt(self, pieces: Sequence[Piece]) -> list[int]:
        tokens = self._pieces(pieces)
        return (add_start_token(tokens, self.start) if self.adds_ends else tokens).ids

    def _truncate(self, tokens: Tokens, keep: int) -> Tokens:
        return truncate_tokens(tokens, self.max_length, self.truncation, keep)

    def _truncate_prompt(self, ids: list[int], keep: int) -> list[int]:
        # Generation needs at least one token.
        placeholder = self.tokenizer.eos_token_id if self.start is None else self.start
        return truncate_prompt(ids, self.max_prompt_length, keep) or [placeholder]

    def _bins(self, lengths: Sequence[int]) -> Bins:
        if self.packs:
            return pack(lengths, self.max_length)
        return [[row] for row in range(len(lengths))]


@dataclass(frozen=True)
class Seq2SeqCodec(Codec):
    """Encodes the prompt for the encoder and the answer for the decoder.

    Attributes:
        decoder_start: the token that the decoder reads before the first token of an answer.
    """

    decoder_start: int = 0

    def length(self, row: Exchange) -> Length:
        prompt = self.prompt_length(row)
        source, over = prompt.used, prompt.cut
        if row.answer is None:
            # A dialogue that does not end with an assistant turn has no target.
            used = source if row.sequences is None else 0
            return Length(used, over, is_estimate=prompt.is_estimate)
        size, is_estimate = self._target_size(row.answer)
        over += max(size - self.max_length, 0)
        used = source + min(size, self.max_length)
        if over and self.truncation in ("drop", "refuse"):
            used = 0
        return Length(used, over, is_estimate=prompt.is_estimate or is_estimate)

    def prompt_length(self, row: Exchange) -> Length:
        (length,) = token_lengths(self.tokenizer, [[row.prompt]], self.max_length)
        return length

    def encode(self, row: Exchange) -> Sample:
        cuts_start = self.truncation == "prompt"
        self.tokenizer.truncation_side = "left" if cuts_start else "right"
        text = shorten_text(self.tokenizer, row.prompt, self.max_length, tail=cuts_start)
        ids = self.tokenizer(text, truncation=True, max_length=self.max_length).input_ids
        sample: Sample = {"inputs": {"input_ids": ids, "prompt_ids": ids}}
        if row.answer is not None:
            answer = shorten_text(self.tokenizer, row.answer, self.max_length)
            sample["target"] = self._target(answer)[: self.max_length]
        return sample

    def collate(self, samples: Sequence[Sample]) -> Batch:
        targets = [sample["target"] for sample in samples]
        shifted = [{"input_ids": [self.decoder_start, *ids[:-1]]} for ids in targets]
        decoder_ids = pad_tokens(shifted, self.tokenizer.pad_token_id)["input_ids"]
        inputs = self.prompts(samples) | {"decoder_input_ids": decoder_ids}
        width = decoder_ids.shape[1]
        positions = [
            (row * width + place, token, row)
            for row, ids in enumerate(targets)
            for place, token in enumerate(ids)
        ]
        return _batch(inputs, positions, len(samples))

    def learned(self, sample: Sample) -> Tokens:
        prompt, target = sample["inputs"]["input_ids"], sample["target"]
        return Tokens([*prompt, *target], [False] * len(prompt) + [True] * len(target))

    def show(self, sample: Sample) -> str:
        prompt = self.tokenizer.decode(sample["inputs"]["input_ids"])
        answer = self.tokenizer.decode(sample["target"]) if "target" in sample else ""
        return f"{prompt} «{answer}»"

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        sources = [sample["inputs"]["input_ids"] for sample in samples]
        encoded = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sources]
        return pad_tokens(encoded, self.tokenizer.pad_token_id)

    def _target_size(self, answer: str) -> tuple[int, bool]:
        """Count the tokens of an answer; True if their number is an estimate."""
        if not is_long(answer):
            return len(self._target(answer)), False
        size, is_estimate = estimate_tokens(self.tokenizer, answer, self.max_length)
        return size + len(self._target("")), is_estimate

    def _target(self, answer: str) -> list[int]:
        ids: list[int] = self.tokenizer(text_target=answer).input_ids
        eos = self.tokenizer.eos_token_id
        return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def make_codec(
    config: CodecConfig, tokenizer: Any, network: Any, room: int | None, packs: bool
) -> Codec:
    """Make the codec for a network from its transformers config.

    `room` is the number of positions left to a prompt by task.max_new_tokens; None if unlimited.
    """
    is_causal = not network.is_encoder_decoder
    default: Truncation = "prompt" if config.kind == "prompt" and is_causal else "end"
    truncation = config.truncation or default
    if not is_causal:
        start = network.decoder_start_token_id
        return Seq2SeqCodec(tokenizer, config.max_length, config.max_length, truncation, start)
    max_prompt_length = min(config.max_length, max(room or config.max_length, 1))
    start, adds_ends = start_token(tokenizer), not config.uses_chat
    shared = (tokenizer, config.max_length, max_prompt_length, truncation)
    return CausalCodec(*shared, start, adds_ends, packs)


def _prompt_pieces(row: Exchange) -> list[Piece]:
    return [Piece(row.prompt, False)]


def _sequences(sample: Sample) -> list[Tokens]:
    """Split the tokens of a sample into its sequences; an unlabeled one has no loss."""
    ids = sample["inputs"]["input_ids"]
    mask = sample.get("target", [False] * len(ids))
    ends = list(accumulate(sample["inputs"].get("sequences", [len(ids)])))
    return [Tokens(ids[a:b], mask[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _shifted_targets(tokens: Tokens, start: int, row: int) -> list[tuple[int, int, int]]:
    """Return (position, target, row) for each position before a token with loss.

    `start` is the position of the row's first token.
    """
    return [
        (start + place, tokens.ids[place + 1], row)
        for place, has_loss in enumerate(tokens.loss_mask[1:])
        if has_loss
    ]


def _batch(inputs: dict[str, Tensor], targets: Sequence[tuple[int, int, int]], rows: int) -> Batch:
    """Make a batch from targets (position, token, row): "ids" [N], "rows" [N] and "tokens" [B].

    The inputs get "positions" [N], indices into the flattened tokens.
    """
    positions, ids, owners = torch.tensor(targets, dtype=torch.long).reshape(-1, 3).T.contiguous()
    return {
        "inputs": {**inputs, "positions": positions},
        "targets": {"ids": ids, "rows": owners, "tokens": owners.bincount(minlength=rows)},
        "count": {"loss": torch.tensor(float(len(ids)))},
    }
