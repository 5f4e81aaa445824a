"""Tiny language models and a small set of labeled texts, made in a second, without a hub.

The networks are transformers models with 3 layers of width 32 and seeded random weights; their
tokenizers are real fast tokenizers. The texts vary in length, and their labels can be learned from
single words.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

TOPICS = {
    "business": ["market", "shares", "profit", "bank", "trade", "growth", "sales"],
    "sport": ["match", "goal", "player", "coach", "season", "team", "final"],
    "tech": ["software", "phone", "network", "computer", "chip", "online", "game"],
}
LABELS = sorted(TOPICS)
COMMON = [
    "the",
    "a",
    "of",
    "in",
    "and",
    "to",
    "for",
    "on",
    "with",
    "said",
    "year",
    "new",
    "one",
    "after",
    "over",
    "more",
    "it",
    "was",
    "is",
    "at",
]
WIDTH = 32
LONGEST = 48


def text_rows(count: int = 50, seed: int = 0) -> list[dict[str, str]]:
    """Make `count` distinct rows {"text", "label"} of 3 to 40 words, with balanced labels."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        label = LABELS[index % len(LABELS)]
        length = rng.randint(3, 40)
        words = [rng.choice(TOPICS[label] if rng.random() < 0.4 else COMMON) for _ in range(length)]
        words[rng.randrange(length)] = rng.choice(TOPICS[label])
        rows.append({"text": " ".join(words), "label": label})
    assert len({row["text"] for row in rows}) == count
    return rows


def answered_rows(count: int = 50, seed: int = 0) -> list[dict[str, str]]:
    """Make the texts of `text_rows` with an answer that repeats their label twice."""
    rows = text_rows(count, seed)
    return [{"body": row["text"], "answer": f" {row['label']} {row['label']}"} for row in rows]


def text_csv(path: Path, count: int = 50, seed: int = 0) -> Path:
    """Write the rows of `text_rows` as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(text_rows(count, seed))
    return path


def several_csv(path: Path, count: int = 50) -> Path:
    """Write the rows of `text_rows` with two labels each as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], f"{row['label']};any"] for row in text_rows(count))
    return path


def tiny_bert(
    folder: Path,
    *,
    dropout: float = 0.1,
    layers: int = 3,
    seed: int = 0,
    pooler: bool = False,
    spread: float = 0.2,
) -> Path:
    """Save a masked-language BERT, or the bare model with its pooler, with a word-level tokenizer.

    `spread` is the standard deviation of the weights: with BERT's own 0.02, the output of so small
    a network hardly depends on its input. Float32 gradients differ from float64 by up to 2e-6 of
    the largest at 0.2, and by 3e-7 at 0.1.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*specials, *COMMON, *(word for words in TOPICS.values() for word in words)]
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    named = dict(zip(names, specials, strict=True))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=spread,
    )
    return _save(BertModel if pooler else BertForMaskedLM, config, tokenizer, named, folder, seed)


def tiny_gpt2(folder: Path, *, dropout: float = 0.1, layers: int = 3, seed: int = 0) -> Path:
    """Save a GPT-2 with a byte-pair tokenizer trained on the texts."""
    tokenizer = _byte_pairs("<|endoftext|>", "<|pad|>")
    named = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
    }
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=WIDTH,
        n_layer=layers,
        n_head=2,
        n_positions=4 * LONGEST,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return _save(GPT2LMHeadModel, config, tokenizer, named, folder, seed)


SENTENCE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SENTENCE_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3}


def tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Save a Llama without a padding token and with untied output weights; texts begin with <s>."""
    tokenizer = _byte_pairs(*SENTENCE.values())
    _frame(tokenizer, "<s> $A")
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8 * LONGEST,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    named = {key: token for key, token in SENTENCE.items() if key != "pad_token"}
    return _save(LlamaForCausalLM, config, tokenizer, named, folder, seed)


def tiny_t5(folder: Path, *, spread: float = 4.0, seed: int = 0) -> Path:
    """Save a T5 with relative positions; texts end with </s>.

    At a spread of 4 the untrained network distinguishes texts, but rounding errors are a thousand
    times larger.
    """
    tokenizer = _byte_pairs(*SENTENCE.values())
    _frame(tokenizer, "$A </s>")
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        initializer_factor=spread,
        decoder_start_token_id=3,
        eos_token_id=1,
        pad_token_id=3,
    )
    return _save(T5ForConditionalGeneration, config, tokenizer, SENTENCE, folder, seed, longest=512)


def tiny_bart(folder: Path, *, seed: int = 0) -> Path:
    """Save a BART with learned positions; texts are enclosed in <s> and </s>."""
    tokenizer = _byte_pairs(*SENTENCE.values())
    _frame(tokenizer, "<s> $A </s>")
    config = BartConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        max_position_embeddings=4 * LONGEST,
        init_std=0.2,
        dropout=0.0,
        decoder_start_token_id=1,
        forced_eos_token_id=1,
        **SENTENCE_IDS,
    )
    return _save(BartForConditionalGeneration, config, tokenizer, SENTENCE, folder, seed)


def _byte_pairs(*specials: str) -> Tokenizer:
    """Train a byte-pair tokenizer on the texts; its first ids are the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([row["text"] for row in text_rows()], trainer)
    return tokenizer


def _frame(tokenizer: Tokenizer, template: str) -> None:
    """Make a tokenizer add special tokens around a text."""
    named = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[pair for pair in named if pair[0] in template]
    )


def _save(
    kind: type[PreTrainedModel],
    config: Any,
    tokenizer: Tokenizer,
    specials: dict[str, str],
    folder: Path,
    seed: int,
    longest: int | None = None,
) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind(config)
    network.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest or config.max_position_embeddings,
        **specials,
    )
    fast.save_pretrained(folder)
    return folder


def models_and_data(folder: Path) -> dict[str, Path]:
    """Make the files of multi-process runs: BERTs with and without dropout, and labeled texts."""
    return {
        "model": tiny_bert(folder / "bert"),
        "plain": tiny_bert(folder / "plain", dropout=0, spread=0.1),
        "data": text_csv(folder / "news.csv"),
    }
