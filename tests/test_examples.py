"""The examples run and do what they claim."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

import finetune
from finetune.errors import DataError
from finetune.registry import find_task
from finetune.testing import check_task
from tests.support.tiny_models import TOPICS, text_rows

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SURGICAL = "examples/surgical.py:Surgical"
RECURRENT = "examples/recurrent_head.py:RecurrentHead"
QUANTUM = "examples/quantum_head.py:QuantumHead"
TAGGING = "examples/token_tagging.py:TokenTagging"


@pytest.fixture(autouse=True)
def _in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # paths of examples are relative to it


def tagged_rows(count: int) -> list[dict[str, list[str]]]:
    """Make sentences in which every word of a topic is tagged with the topic."""
    topics = {word: topic for topic, words in TOPICS.items() for word in words}
    sentences = [row["text"].split() for row in text_rows(count)]
    return [{"words": ws, "tags": [topics.get(word, "O") for word in ws]} for ws in sentences]


def test_examples_import_and_are_short() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        runpy.run_path(str(path))
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150, path.name


@pytest.mark.parametrize("head", [RECURRENT, QUANTUM])
def test_heads_pass_check_task(head: str, bert_folder: Path) -> None:
    check_task(find_task(head)(), text_rows(6), str(bert_folder))


@pytest.mark.parametrize(
    ("head", "rate"), [(RECURRENT, 1e-2), pytest.param(QUANTUM, 5e-2, marks=pytest.mark.slow)]
)
def test_heads_learn_from_cached_features_and_reload(
    head: str, rate: float, bert_folder: Path, tmp_path: Path
) -> None:
    rows, folder = text_rows(48), str(tmp_path / "run")
    keys = {"model": str(bert_folder), "method": "frozen", "epochs": 10, "log_every": 1}
    run = finetune.train(head, data=rows, head_lr=rate, validation=0.25, output=folder, **keys)
    losses = run.history().query("split == 'train'")["loss"].tolist()
    assert losses[-1] < 0.9 * losses[0], "the head has not learned"
    labels = [each["label"] for each in finetune.load(run.path)([row["text"] for row in rows])]
    assert len({*labels}) > 1


def test_recurrent_head_reads_the_order_of_tokens(bert_folder: Path) -> None:
    module = runpy.run_path(str(ROOT / "examples/recurrent_head.py"))
    torch.manual_seed(0)
    head = module["RecurrentClassifier"](8, 4, 3)
    states = torch.randn(2, 6, 8)
    padded = torch.cat([states, torch.zeros(2, 3, 8)], dim=1)
    with torch.no_grad():
        assert torch.allclose(head(padded), head(states), atol=1e-6), "padding is not read"
        assert not torch.allclose(head(states.flip(1)), head(states), atol=1e-2)


def test_quantum_circuit_equals_its_matrices() -> None:
    """Two qubits, one layer, by hand: H, RY(angle), CNOT, RY(rotation), expected values of Z."""
    measure = runpy.run_path(str(ROOT / "examples/quantum_head.py"))["make_circuit"](2)
    angles, rotations = torch.tensor([[0.3, -0.8], [1.1, 0.2]]), torch.tensor([[0.4, -0.7]])

    def turn(angle: float) -> torch.Tensor:
        cos, sin = torch.tensor(angle / 2).cos(), torch.tensor(angle / 2).sin()
        return torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])

    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    cnot = torch.eye(4)[[0, 1, 3, 2]]
    z, one = torch.diag(torch.tensor([1.0, -1.0])), torch.eye(2)
    for row, (first, second) in enumerate(angles.tolist()):
        state = torch.kron((turn(first) @ hadamard)[:, 0], (turn(second) @ hadamard)[:, 0])
        state = torch.kron(turn(0.4), turn(-0.7)) @ cnot @ state
        expected = [state @ torch.kron(*pair) @ state for pair in ((z, one), (one, z))]
        assert torch.allclose(
            measure(angles, rotations)[row].float(), torch.stack(expected), atol=1e-5
        )


def test_token_tagging_passes_check_task(bert_folder: Path) -> None:
    check_task(find_task(TAGGING)(), tagged_rows(6), str(bert_folder))


def test_token_tagging_trains_reloads_and_predicts(bert_folder: Path, tmp_path: Path) -> None:
    rows, data = tagged_rows(40), tmp_path / "words.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = str(tmp_path / "run")
    keys = {"model": str(bert_folder), "method": "full", "epochs": 20, "batch_size": 8}
    run = finetune.train(TAGGING, data=str(data), output=folder, lr=3e-3, head_lr=3e-3, **keys)
    history = run.history().query("split == 'validation'")["accuracy"].tolist()
    assert history[0] < 0.7 < history[-1], "accuracy did not improve"
    predictions = finetune.load(run.path)([{"words": row["words"]} for row in rows])
    assert [len(each["tags"]) for each in predictions] == [len(row["words"]) for row in rows]
    tags = {tag for each in predictions for tag in each["tags"]}
    assert tags <= {*TOPICS, "O"}
    assert len(tags) > 1
    assert run.predict([rows[0]]) == predictions[:1]


def test_token_tagging_reports_invalid_rows(bert_folder: Path, tmp_path: Path) -> None:
    rows = [*tagged_rows(8), {"words": ["a", "goal"], "tags": ["O"]}, {"words": [], "tags": []}]
    keys = {"model": str(bert_folder), "output": str(tmp_path / "run")}
    with pytest.raises(DataError, match=r"2 words, but 1 tags[\s\S]*words is empty"):
        finetune.train(TAGGING, data=rows, **keys)
    with pytest.raises(DataError, match=r"task.tags: there is no column 'tags'.*tag"):
        finetune.train(TAGGING, data=[{"words": ["a"], "tag": ["O"]}] * 8, **keys)


def test_surgical_trains_only_the_selected_blocks(bert_folder: Path, tmp_path: Path) -> None:
    keys = {"method": SURGICAL, "method.blocks": [1, -1], "epochs": 1, "lr": 1e-2}
    run = finetune.train(
        "text-classification",
        data=text_rows(40),
        model=str(bert_folder),
        output=str(tmp_path / "run"),
        head="native",
        **keys,
    )
    before = BertForSequenceClassification.from_pretrained(bert_folder).state_dict()
    after = BertForSequenceClassification.from_pretrained(run.path / "final").state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    layers = {name.split(".")[3] for name in changed if ".encoder.layer." in name}
    assert layers == {"0", "2"}, "block 0 is the embeddings, so block 1 is the first layer"
    assert not any(".embeddings." in name for name in changed)
    assert any("classifier" in name for name in changed)


def test_surgical_rejects_a_missing_block(bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(finetune.ModelError, match=r"no block 9; this network has \d, numbered 0"):
        finetune.train(
            "text-classification",
            data=text_rows(40),
            model=str(bert_folder),
            output=str(tmp_path / "run"),
            **{"method": SURGICAL, "method.blocks": [9]},
        )
