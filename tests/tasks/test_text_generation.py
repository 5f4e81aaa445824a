"""The text generator: the contract on every kind of network and row, and what its final model says
in the libraries that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.task import Row
from finetune.testing import check_task
from tasks import TextGeneration
from tests.lives import one_thread
from tests.tiny_models import answered_rows, text_rows

NETWORKS = ["gpt2", "llama", "t5", "bart"]
TEMPLATES = {"prompt": "Text: {body}\nTopic:", "completion": "{answer}"}
ANSWERED = answered_rows(6)
PLAIN = [{"text": row["text"]} for row in text_rows(6)]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Name the topic."},
            {"role": "user", "content": row["body"]},
            {"role": "assistant", "content": row["answer"].strip()},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "yes"},
        ]
    }
    for row in ANSWERED
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def folders(
    gpt2_folder: Path, llama_folder: Path, t5_folder: Path, bart_folder: Path
) -> dict[str, Path]:
    return dict(zip(NETWORKS, (gpt2_folder, llama_folder, t5_folder, bart_folder), strict=True))


# ---- the contract


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        pytest.param(ANSWERED, TEMPLATES, id="prompt"),
        pytest.param(CHATS, {}, id="chat"),
        pytest.param(PLAIN, {}, id="text"),
    ],
)
def test_contract_is_kept(
    network: str, rows: list[Row], keys: dict[str, Any], folders: dict[str, Path]
) -> None:
    if network in ("t5", "bart") and rows is PLAIN:
        pytest.skip("plain text is for causal networks")
    check_task(TextGeneration(max_new_tokens=4, **keys), rows, str(folders[network]))
