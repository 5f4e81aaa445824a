"""Masks over whole words, drawn as a function of the rng or of the tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.pretraining.masked_texts import PIECE, split_texts
from tasks.pretraining.word_masking import (
    NO_WORD,
    WordMasking,
    number_words,
    ordinary_tokens,
)

MASK = 4
MASKING = WordMasking(0.15, MASK, np.arange(10, 100))
IDS = list(range(200, 240))
WORDS = [NO_WORD, *(number // 3 for number in range(38)), NO_WORD]  # of three tokens each


@pytest.fixture(scope="module")
def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer that splits most words."""
    letters = "abcdefghijklmnopqrstuvwxyz'."
    names = ["[UNK]", "[PAD]", "[MASK]", "[CLS]", "[SEP]", *letters]
    names += [f"##{letter}" for letter in letters]
    tokenizer = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]"
    )


def test_words_are_masked_replaced_or_kept_as_a_whole() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(400):
        ids, positions, targets = MASKING.draw(IDS, WORDS, np.random.default_rng(seed))
        assert positions == sorted(positions)
        assert targets == [IDS[at] for at in positions]
        assert [
            a == b for at, (a, b) in enumerate(zip(ids, IDS, strict=True)) if at not in positions
        ]
        for word in {WORDS[at] for at in positions}:
            members = [at for at, each in enumerate(WORDS) if each == word]
            assert set(members) <= set(positions)
            read = [ids[at] for at in members]
            kept = read == [IDS[at] for at in members]
            kinds["masked" if set(read) == {MASK} else "kept" if kept else "random"] += 1
            assert kept or set(read) == {MASK} or all(10 <= each < 100 for each in read)
    total = kinds.total()
    assert kinds["masked"] / total == pytest.approx(0.8, abs=0.04)
    assert kinds["random"] / total == pytest.approx(0.1, abs=0.03)


def test_share_of_tokens_is_reached_with_whole_words() -> None:
    _, positions, _ = MASKING.draw(IDS, WORDS, np.random.default_rng(0))
    assert 0.15 * 38 <= len(positions) < 0.15 * 38 + 3
    assert len(MASKING.draw([7, 8, 9], [NO_WORD, 0, NO_WORD], None).positions) == 1


def test_masks_without_rng_depend_on_the_tokens_alone() -> None:
    assert MASKING.draw(IDS, WORDS, None) == MASKING.draw(list(IDS), list(WORDS), None)
    others = [MASKING.draw([*IDS[:-1], n], WORDS, None).positions for n in range(300, 310)]
    assert len({tuple(each) for each in others}) > 1


def test_words_end_at_blanks_even_if_the_tokenizer_has_one_word_per_text() -> None:
    names = {"<unk>": 0, "un": 1, "fair": 2, "game": 3, " ": 4}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    text = "un fair  game"
    assert number_words(fast([text]), text) == [0, 1, 2]


def test_pieces_of_a_word_have_its_number(pieces_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Don't run."
    encoded = pieces_tokenizer([text])
    assert encoded.tokens(0) == ["d", "##o", "##n", "'", "t", "r", "##u", "##n", "."]
    assert number_words(encoded, text) == [0, 0, 0, 1, 2, 3, 3, 3, 4]


def test_long_texts_are_split_between_words(pieces_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["short", "some words of which none may be torn apart", "a" * 30]
    short, long, word = split_texts(pieces_tokenizer, texts, room=8)
    assert short == [{}]
    spans = [part[PIECE] for part in long]
    pieces = [texts[1][start:stop] for start, stop in spans]
    assert "".join(pieces) == texts[1], "no character is lost"
    assert all(set(piece.split()) <= set(texts[1].split()) for piece in pieces)
    assert all(len(pieces_tokenizer.tokenize(piece)) <= 8 for piece in pieces)
    assert len(word) == 4, "a word longer than a piece is split"


def test_random_tokens_are_never_special(bert_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    drawn = ordinary_tokens(tokenizer)
    assert len(drawn)
    assert not {*drawn.tolist()} & {*tokenizer.all_special_ids}
