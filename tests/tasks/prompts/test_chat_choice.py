"""Prompts and completions in the chat template of an Instruct model, and runs from before that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

import finetune
from finetune.config.retired import ADDED_KEYS, stored_section
from finetune.errors import ConfigError
from finetune.task_parts.samples import Row
from tasks import TextGeneration
from tests.support.text_generators import ANSWERED, loss_text, set_up, train, with_chat_template

ALPACA: list[Row] = [
    {"instruction": row["body"], "input": None, "output": row["answer"]} for row in ANSWERED
]
FORMATTED: list[Row] = [
    {"prompt": f"<|im_start|>user\n{row['body']}<|im_end|>\n", "completion": row["answer"]}
    for row in ANSWERED
]


@pytest.fixture(scope="module")
def chat_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer has a chat template."""
    return with_chat_template(llama_folder, tmp_path_factory.mktemp("chat") / "llama")


def whole_text(task: TextGeneration, row: Row) -> str:
    """Decode all tokens of a row."""
    return str(task.tokenizer_.decode(task.encode(row)["inputs"]["input_ids"]))


def test_prompts_meet_the_chat_template_of_the_tokenizer(chat_folder: Path) -> None:
    task, model, notes = set_up(chat_folder, ALPACA)
    (note,) = [note for note in notes if "task.chat=false" in note]
    assert note.startswith("chat template: a prompt is a turn of the user")
    turns = [
        {"role": "user", "content": ALPACA[0]["instruction"]},
        {"role": "assistant", "content": ALPACA[0]["output"].strip()},
    ]
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    assert whole_text(task, ALPACA[0]) == tokenizer.apply_chat_template(turns, tokenize=False)
    assert loss_text(task, ALPACA[0]) == f"{turns[1]['content']}</s>"
    # A row to predict is the prompt alone, as the template begins the answer.
    unlabeled = {"instruction": ALPACA[0]["instruction"], "input": None}
    arguments = {"tokenize": False, "add_generation_prompt": True}
    prompt = tokenizer.apply_chat_template(turns[:1], **arguments)
    assert whole_text(task, unlabeled) == prompt
    assert "target" not in task.encode(unlabeled)
    code = task.views.card(model).code
    assert 'write([{"role": "user", "content": "{instruction}\\n\\n{input}"}])' in code


@pytest.mark.parametrize(
    ("rows", "keys", "has_template"),
    [
        pytest.param(ALPACA, {"chat": False}, True, id="chat=false"),
        pytest.param(ALPACA, {}, False, id="no template"),
        pytest.param(FORMATTED, {}, True, id="formatted"),
    ],
)
def test_prompts_stay_plain_text(
    rows: list[Row],
    keys: dict[str, Any],
    has_template: bool,
    llama_folder: Path,
    chat_folder: Path,
) -> None:
    folder = chat_folder if has_template else llama_folder
    task, _, notes = set_up(folder, rows, **keys)
    assert task.resolved_.chat is False
    assert "[user]" not in whole_text(task, rows[0])
    assert loss_text(task, rows[0]) == f"{ANSWERED[0]['answer']}</s>"
    noted = any("6 of the first 6 prompts are formatted with '<|im_start|>'" in x for x in notes)
    assert noted == (rows is FORMATTED)


def test_truncated_prompt_keeps_the_header_of_its_template(chat_folder: Path) -> None:
    system = "Be brief."
    rows = [{"system": system, "prompt": "the goal " * 60, "completion": "sport"}] * 2
    task, _, _ = set_up(chat_folder, rows, max_length=80, max_new_tokens=4)
    header, question = f"[system] {system}\n[user] ", "goal\n[assistant] "
    assert task.lengths(rows)[0].cut > 0
    text = whole_text(task, rows[0])
    assert text.startswith(header)
    assert f"{question}sport</s>" in text
    prompt = task.tokenizer_.decode(task.encode(rows[0])["inputs"]["prompt_ids"])
    assert prompt.startswith(header)
    assert prompt.endswith(question)
    assert loss_text(task, rows[0]) == "sport</s>"


def test_lists_of_messages_and_histories_always_are_dialogues(llama_folder: Path) -> None:
    turns = [{"role": "user", "content": "the goal"}, {"role": "assistant", "content": "sport"}]
    asked = [*turns, {"role": "user", "content": "the bank"}]
    lists = [{"prompt": asked, "completion": [{"role": "assistant", "content": "trade"}]}] * 2
    task, _, _ = set_up(llama_folder, lists)
    assert loss_text(task, lists[0]) == " trade</s>"  # earlier answers of a prompt carry no loss
    pasts = [{"prompt": "the bank", "response": "trade", "history": [["the goal", "sport"]]}] * 2
    task, _, _ = set_up(llama_folder, pasts)
    assert loss_text(task, pasts[0]) == " sport</s> trade</s>"
    assert task.rows.from_value("the bank") == {"prompt": "the bank", "history": None}
    for rows in (lists, pasts):
        with pytest.raises(ConfigError, match="task.chat=false: these rows have lists of messages"):
            set_up(llama_folder, rows, chat=False)


def test_system_column_precedes_a_plain_prompt(llama_folder: Path) -> None:
    rows = [{"system_prompt": "Be brief.", "question": "the goal", "response": "sport"}] * 2
    task, _, _ = set_up(llama_folder, rows)
    assert whole_text(task, rows[0]) == "<s>Be brief.\n\nthe goal\nsport</s>"
    assert whole_text(task, rows[0] | {"system_prompt": None}) == "<s>the goal\nsport</s>"


def test_plain_text_rejects_chat(chat_folder: Path) -> None:
    with pytest.raises(ConfigError, match="task.chat=true requires prompts and completions"):
        set_up(chat_folder, [{"text": "the goal"}] * 2, chat=True)


# ---- runs of earlier versions


def test_stored_section_fills_in_keys_of_later_versions() -> None:
    task = stored_section(TextGeneration.Config, {"name": "text-generation", "prompt": "{q}"})
    assert {key: getattr(task, key) for key in ADDED_KEYS} == dict(ADDED_KEYS)
    task = stored_section(TextGeneration.Config, {"name": "text-generation", "chat": True})
    assert task.chat is True


def test_run_from_before_the_chat_key_goes_on_without_chat(
    chat_folder: Path, tmp_path: Path
) -> None:
    keys = {"method": "full", "batch_size": 4, "validation": 0}
    rows = [row | {"input": ""} for row in ALPACA]
    folder = tmp_path / "run"
    run = train(chat_folder, folder, rows, chat=False, epochs=1, **keys)
    before = run.predict(rows)
    for file, load, dump in (
        (folder / "run.json", json.loads, json.dumps),
        (folder / "config.yaml", yaml.safe_load, yaml.safe_dump),
        (folder / "final" / "task.json", json.loads, json.dumps),
    ):
        stored = load(file.read_text())
        for section in (stored.get("given"), stored.get("task"), stored.get("config")):
            for key in ADDED_KEYS if section else ():
                section.pop(key, None)
                section.pop(f"task.{key}", None)
        file.write_text(dump(stored))
    assert finetune.load(folder)(rows) == before
    train(chat_folder, folder, rows, epochs=2, extend=True, **keys)
    assert json.loads((folder / "final" / "task.json").read_text())["config"]["chat"] is False
