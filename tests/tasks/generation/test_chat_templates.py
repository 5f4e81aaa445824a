"""Dialogues of text generation: turns that carry loss, tools, and chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

import finetune
from finetune.errors import DataError
from finetune.task_parts import Row
from tests.support.text_generators import CHATS, NETWORKS, loss_text, set_up, train

# ---- turns that carry loss


def test_loss_covers_assistant_turns_and_their_end_tokens(gpt2_folder: Path) -> None:
    task, _, notes = set_up(gpt2_folder, CHATS)
    assert any(note.startswith("chat template: the tokenizer has none") for note in notes)
    answer = CHATS[0]["messages"][2]["content"]
    assert loss_text(task, CHATS[0]) == f" {answer}<|endoftext|> yes<|endoftext|>"
    weighted = [dict(message) for message in CHATS[0]["messages"]]
    weighted[2]["weight"] = 0
    assert loss_text(task, {"messages": weighted}) == " yes<|endoftext|>"
    prompt = task.tokenizer_.decode(task.encode(CHATS[0])["inputs"]["prompt_ids"])
    assert prompt.endswith("user: Sure?\nassistant:")


def test_last_turn_without_loss_gives_no_answer(t5_folder: Path) -> None:
    """The turn has weight 0, or only calls a tool; a text column then holds "" as its content."""
    task, _, _ = set_up(t5_folder, CHATS)
    for change in ({"weight": 0}, {"content": "", "tool_calls": [{"name": "score"}]}):
        row = {"messages": [*CHATS[0]["messages"][:-1], CHATS[0]["messages"][-1] | change]}
        assert "target" not in task.encode(row)
        assert task.lengths([row])[0].used == 0
        predictions = [{"generated_text": text} for text in ("yes", "anything")]
        assert task._score(predictions, [CHATS[0], row])["rougeL"] == 1


def test_setup_notes_that_seq2seq_learns_only_the_last_turn(model_folders: dict[str, Path]) -> None:
    noted = [
        any(
            "only the last turn carries loss" in note
            for note in set_up(model_folders[name], CHATS)[2]
        )
        for name in NETWORKS
    ]
    assert noted == [False, False, True, True]


def test_tools_are_rendered_as_by_transformers(llama_folder: Path, tmp_path: Path) -> None:
    def tool(name: str, argument: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {argument: {"type": "string"}}}
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    def row(name: str, argument: str, value: str) -> Row:
        call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
        calling = {"role": "assistant", "content": None, "tool_calls": [call]}
        result = {"role": "tool", "content": "goal", "tool_calls": None}
        answer = {"role": "assistant", "content": "the goal", "tool_calls": None}
        question = {"role": "user", "content": "the match", "tool_calls": None}
        return {"messages": [question, calling, result, answer], "tools": [tool(name, argument)]}

    rows = [row("score", "team", "market"), row("price", "share", "bank")] * 4
    file = tmp_path / "turns.jinja"
    file.write_text(
        "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: "
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    keys = {"chat_template": str(file), "max_new_tokens": 4, "validation": 0}
    run = train(llama_folder, tmp_path / "run", rows, max_steps=2, batch_size=4, **keys)
    predictor = finetune.load(run.path)
    tokenizer = AutoTokenizer.from_pretrained(run.path / "final")
    for typed, plain in zip(Dataset.from_list(rows), rows, strict=True):
        # A typed column fills missing keys of schemas and calls with nulls.
        assert "null" in json.dumps(typed["tools"])
        messages = [{k: v for k, v in turn.items() if v is not None} for turn in plain["messages"]]
        arguments = {"tools": plain["tools"], "add_generation_prompt": True, "tokenize": False}
        prompt = predictor.trained_task.encode(typed)["inputs"]["prompt_ids"]
        whole = tokenizer.apply_chat_template(messages[:-1], **arguments)
        assert tokenizer.decode(prompt) == whole
        target = loss_text(predictor.trained_task, typed)
        assert '"arguments"' in target
        assert "the goal" in target
        assert "parameters" not in target
    assert (
        predictor(["the match"])[0]["generated_text"]
        == predictor([{"messages": [{"role": "user", "content": "the match"}], "tools": None}])[0][
            "generated_text"
        ]
    )
    notes = set_up(llama_folder, rows)[2]
    assert any("ignores tools" in note for note in notes)


# ---- task.chat_template


def test_chat_template_file_formats_the_turns(gpt2_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "turns.jinja"
    file.write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    task, model, _ = set_up(gpt2_folder, CHATS, chat_template=str(file))
    assert loss_text(task, CHATS[0]).startswith(f" {CHATS[0]['messages'][2]['content']}<|end")
    task.save(model, tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.chat_template == file.read_text().rstrip("\n")


@pytest.mark.parametrize(("end", "is_noted"), [("", True), ("{{ eos_token }}", False)])
def test_chat_template_without_end_tokens_is_noted(
    end: str, is_noted: bool, llama_folder: Path
) -> None:
    turns = "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    keys = {"chat_template": f"{turns}{end}\n{{% endfor %}}"}
    notes = set_up(llama_folder, CHATS, **keys)[2]
    assert any("turns do not end with '</s>'" in note for note in notes) == is_noted
    plain = set_up(llama_folder, CHATS)[2]
    assert not any("do not end" in note for note in plain)


def test_chat_template_failure_names_the_roles_and_the_exception(gpt2_folder: Path) -> None:
    with pytest.raises(
        DataError, match="the template failed on a dialogue of .*: ZeroDivisionError"
    ):
        task, _, _ = set_up(gpt2_folder, CHATS, chat_template="{{ 1 / 0 }}")
        task.lengths(CHATS)


def test_chat_template_file_must_be_utf8(gpt2_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "turns.jinja"
    file.write_bytes("{{ 'é' }}".encode("latin-1"))
    with pytest.raises(DataError, match=r"turns.jinja is not UTF-8.*0xe9"):
        set_up(gpt2_folder, CHATS, chat_template=str(file))


def test_chat_template_must_not_change_earlier_turns(gpt2_folder: Path) -> None:
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="renders earlier turns differently"):
        task, _, _ = set_up(gpt2_folder, CHATS, chat_template=rewriting)
        task.lengths(CHATS)
