"""Networks of the usual sizes with random weights, and rows for them, written without any hub."""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.processes import ROOT

WORDS = re.findall("[a-z]{3,}", (ROOT / "benchmarks" / "README.md").read_text())


def fast_device() -> torch.device:
    """Seed torch; return the device on which a network is initialized faster, to be entered."""
    torch.manual_seed(0)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer that learned the words of this folder's README."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    special |= {"cls_token": "<s>", "sep_token": "<sep>", "mask_token": "<mask>"}
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # no password
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=[*special.values()], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, **special)
    wrapped.save_pretrained(folder)


def write_bert(folder: Path, *, is_tiny: bool) -> None:
    """Write a BERT: of 110 M parameters, or tiny."""
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(**small, num_hidden_layers=2) if is_tiny else BertConfig()
    with fast_device():
        BertModel(config).save_pretrained(folder)
    write_tokenizer(folder)


def write_decoder(folder: Path, *, is_tiny: bool) -> None:
    """Write a Llama: of 1.1 G parameters in bfloat16 (the shape of TinyLlama), or tiny."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
    shape |= {"num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}
    if is_tiny:
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4000}
    config = LlamaConfig(**shape, max_position_embeddings=2048, pad_token_id=0, eos_token_id=2)
    with fast_device():
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)


def write_wide_decoder(folder: Path, *, is_tiny: bool) -> None:
    """Write a Llama of 0.4 G parameters, of which most are a vocabulary of 128,256, or tiny."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    shape |= {"num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128_256}
    if is_tiny:
        shape |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4000}
    config = LlamaConfig(**shape, max_position_embeddings=2048, pad_token_id=0, eos_token_id=2)
    with fast_device():
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)


def write_vit(folder: Path, *, is_tiny: bool) -> None:
    """Write a ViT: base, or tiny."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(**small, num_hidden_layers=2) if is_tiny else ViTConfig()
    with fast_device():
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)


def write_resnet(folder: Path, *, is_tiny: bool) -> None:
    """Write the random weights of a timm ResNet-50, or of a ResNet-10, as a checkpoint of timm."""
    import timm
    from safetensors.torch import save_model

    name = "resnet10t" if is_tiny else "resnet50"
    torch.manual_seed(0)
    network = timm.create_model(name)
    folder.mkdir(parents=True)
    save_model(network, str(folder / "model.safetensors"))
    cfg = {"architecture": name, "num_classes": 1000, "pretrained_cfg": network.pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(cfg))


def write_texts(path: Path, rows: int, words: int) -> None:
    """Write a table of random texts of about `words` words with one of four labels."""
    chance = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            count = chance.randint(words // 2, words)
            writer.writerow([" ".join(chance.choices(WORDS, k=count)), f"label {row % 4}"])


def write_corpus(path: Path, rows: int, words: int) -> None:
    """Write prompts and answers of random words, of very unequal length."""
    chance = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            count = chance.choice([words // 8, words // 4, words // 2, words])
            prompt = " ".join(chance.choices(WORDS, k=count))
            answer = " ".join(chance.choices(WORDS, k=count // 2))
            file.write(json.dumps({"prompt": prompt, "completion": answer}) + "\n")


def write_pictures(folder: Path, kind: str, rows: int) -> None:
    """Write pictures: `shapes` with labels, or `scenes` with masks and boxes."""
    script = [sys.executable, str(ROOT / "examples" / f"make_{kind}.py")]
    counts = ["--train", str(rows), "--test", "8"]
    subprocess.run([*script, "--folder", str(folder), *counts], check=True, capture_output=True)
