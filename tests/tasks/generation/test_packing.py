"""Packing: bins of rows, and rows of one sequence that do not see each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

from tasks.generation.language_models import Isolation
from tasks.generation.packing import best_fit, pack, padded_tokens
from tests.support.text_generators import ANSWERED, CLOSE, PLAIN, TEMPLATES, native_logits, set_up
from tests.support.tiny_models import text_rows

# ---- bins


LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 1000))
def test_pack_puts_each_row_into_one_bin_within_the_limit(lengths: list[int], longest: int) -> None:
    bins = pack(lengths, longest)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    limit = max(longest, *lengths)
    assert all(sum(lengths[row] for row in members) <= limit for members in bins)
    assert padded_tokens(lengths, bins) <= max(lengths) * len(lengths)


def test_best_fit_chooses_the_bin_with_the_least_room() -> None:
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]


def test_pack_keeps_bins_of_short_rows_short() -> None:
    lengths = [200, *[20] * 40]
    bins = pack(lengths, 2048)
    assert padded_tokens(lengths, bins) <= 1.1 * sum(lengths)
    assert max(sum(lengths[row] for row in members) for members in bins) < 600


# ---- packed sequences in a network


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("isolation", ["positions", "mask"])
@pytest.mark.parametrize("network_name", ["gpt2", "llama"])
def test_packing_isolates_rows_of_one_sequence(
    network_name: str, isolation: Isolation, attention: str, model_folders: dict[str, Path]
) -> None:
    rows = [{"text": row["text"]} for row in text_rows(12)]
    task, model, notes = set_up(model_folders[network_name], rows, max_length=120)
    assert any(note.startswith("packing: on") for note in notes)
    model.network.set_attn_implementation(attention)  # type: ignore[operator]
    model.isolation = isolation
    batch = task.collate([task.encode(row) for row in rows])
    assert batch["inputs"]["input_ids"].shape[0] < len(rows)
    with torch.inference_mode():
        packed = model(batch)
    alone = torch.cat([native_logits(task, model, row) for row in rows])
    assert (packed - alone).abs().max() <= CLOSE * (alone.max() - alone.min())


def test_packing_is_off_if_the_network_cannot_isolate_rows(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(tmp_path)
    task, model, notes = set_up(tmp_path, PLAIN)
    assert model.isolation is None
    assert any(note.startswith("packing: off") for note in notes)
    batch = task.collate([task.encode(row) for row in PLAIN])
    assert len(batch["inputs"]["input_ids"]) == len(PLAIN)


def test_packing_false_gives_each_row_its_own_sequence(gpt2_folder: Path) -> None:
    task, _, notes = set_up(gpt2_folder, PLAIN, packing=False)
    batch = task.collate([task.encode(row) for row in PLAIN])
    assert len(batch["inputs"]["input_ids"]) == len(PLAIN)
    assert not any("packing" in note for note in notes)


def test_packing_true_is_noted_as_off_for_seq2seq(t5_folder: Path) -> None:
    _, _, notes = set_up(t5_folder, ANSWERED, **TEMPLATES, packing=True)
    assert any(note.startswith("packing: off") for note in notes)
