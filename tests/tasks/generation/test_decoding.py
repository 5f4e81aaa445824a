"""Decoding: greedy and sampled text, stop strings, truncated prompts, code on the model card."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.inference.predictor import Predictor
from tasks import TextGeneration
from tasks.generation.generation_code import generation_card_code
from tests.support.text_generators import ANSWERED, CHATS, NETWORKS, PLAIN, TEMPLATES, set_up


@pytest.mark.parametrize("network", NETWORKS)
def test_greedy_decoding_does_not_depend_on_the_batch(
    network: str, model_folders: dict[str, Path]
) -> None:
    task, model, _ = set_up(model_folders[network], ANSWERED, **TEMPLATES, max_new_tokens=8)
    predictor = Predictor(task, model, torch.device("cpu"))
    together = predictor(ANSWERED)
    assert together == predictor(ANSWERED, batch_size=1)
    assert len({row["generated_text"] for row in together}) > 1, "identical answers prove little"


def test_sampling_depends_only_on_the_seed(gpt2_folder: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        keys = {"temperature": 1.0, "top_p": 0.9, "sampling_seed": seed, "max_new_tokens": 8}
        task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, **keys)
        texts.append(Predictor(task, model, torch.device("cpu"))(ANSWERED))
    assert texts[0] == texts[1] != texts[2]


def test_stop_string_ends_the_generated_text(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=12)
    whole = Predictor(task, model, torch.device("cpu"))(ANSWERED[:1])[0]["generated_text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    task.settle({"stop": [stop]})
    short = Predictor(task, model, torch.device("cpu"))(ANSWERED[:1])[0]["generated_text"]
    assert short == whole[: whole.index(stop)].strip()


def test_generate_texts_does_not_synchronize_processes(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of a formerly sharded network may have different numbers of batches."""
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=2)
    network, synced = model.network, list[Any]()
    generate = network.generate

    def recording(**keys: Any) -> Tensor:
        synced.append(keys.get("synced_gpus"))
        return generate(**keys)  # type: ignore[no-any-return,operator]

    monkeypatch.setattr(network, "generate", recording)
    task.predict(model, task.collate([task.encode(ANSWERED[0])]))
    assert synced == [False]


# ---- truncated prompts


def test_predictor_counts_truncated_prompts(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=8)
    predictor = Predictor(task, model, torch.device("cpu"))
    long = ANSWERED[0] | {"body": "the match " * 200}
    predictor([*ANSWERED, long])
    assert predictor.cut == 1


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_predictor_counts_prompts_truncated_for_max_new_tokens(
    kind: str, gpt2_folder: Path
) -> None:
    rows = CHATS if kind == "chat" else PLAIN
    task, model, _ = set_up(gpt2_folder, rows, max_new_tokens=100)
    predictor = Predictor(task, model, torch.device("cpu"))
    predictor([task.rows.from_value("the match " * 55), task.rows.from_value("the match")])
    assert predictor.cut == 1, "training reads such a row whole, but generation needs room"


def test_compare_notes_prompts_truncated_for_generation(gpt2_folder: Path) -> None:
    long = ANSWERED[0] | {"body": "the match " * 60}
    for generate, expected in [(True, ["held: 1 of 7 prompts are truncated"]), (False, [])]:
        keys = {"max_new_tokens": 100, "generate": generate}
        task, _, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, **keys)
        notes = task.views.compare("held", [*ANSWERED, long])
        assert [note.partition(" for")[0] for note in notes] == expected


# ---- code on the model card


@pytest.mark.parametrize("is_causal", [True, False])
def test_generation_card_code_defines_all_names_that_it_uses(is_causal: bool) -> None:
    config = TextGeneration(stop=["end"], **TEMPLATES).config
    for code in generation_card_code(config, is_causal, None):
        tree = list(ast.walk(ast.parse(code)))
        bound = {node.id for node in tree if isinstance(node, ast.Name) and not is_read(node)}
        bound |= {
            alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        bound |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
        bound |= {node.arg for node in tree if isinstance(node, ast.arg)}
        used = {node.id for node in tree if isinstance(node, ast.Name) and is_read(node)}
        assert not used - bound - {"print"}


def is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)
