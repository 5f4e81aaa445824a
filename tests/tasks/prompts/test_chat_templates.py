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
from finetune.task_parts.samples import Row
from tasks.prompts import dialogues
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
    task, _, _ = set_up(t5_folder, CHATS, generate=True)
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


# ---- templates that rewrite earlier turns

# As Qwen3's: reasoning is kept in the last answer only, where an empty one is opened if missing.
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set answer = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}<think>\n{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\n')"
    " if '</think>' in m.content else '' }}\n</think>\n\n{% endif %}{{ answer }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As DeepSeek-R1's: the prompt opens the reasoning, and every answer loses its own.
OPENED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<A>{{ m.content.split('</think>')[-1] }}"
    "<end>{% else %}<U>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<A><think>\n{% endif %}"
)
THOUGHTS = [
    {
        "messages": [
            {"role": "user", "content": "goal?"},
            {"role": "assistant", "content": "<think>\na match\n</think>\n\nsport"},
            {"role": "user", "content": "bank?"},
            {"role": "assistant", "content": "<think>\na trade\n</think>\n\nbusiness"},
        ]
    }
]


def test_rewriting_template_gives_one_sequence_an_answer(llama_folder: Path) -> None:
    task, model, notes = set_up(llama_folder, THOUGHTS, chat_template=REASONING)
    assert any("one sequence an answer" in note and "1 of the first 1" in note for note in notes)
    messages = THOUGHTS[0]["messages"]
    learned = []
    for pieces in task.exchange(THOUGHTS[0]).sequences or []:
        assert [piece.has_loss for piece in pieces[:2]] == [False, True]
        learned.append("".join(piece.text for piece in pieces))
    for place, text in zip((1, 3), learned, strict=True):
        arguments = {"tokenize": False, "add_generation_prompt": True}
        prompt = task.tokenizer_.apply_chat_template(messages[:place], **arguments)
        assert text.startswith(prompt)
        assert text[len(prompt) :].startswith(messages[place]["content"])
    assert "a match" not in learned[1]
    # Both sequences count for their row, and cost what they would alone.
    batch = task.collate([task.encode(THOUGHTS[0])])
    assert batch["inputs"]["input_ids"].shape[0] <= 2
    assert batch["targets"]["tokens"].tolist() == [int(batch["count"]["loss"])]
    alone = [task.encode({"messages": messages[:place]}) for place in (2, 4)]
    counts = [task.collate([sample])["count"]["loss"] for sample in alone]
    assert float(batch["count"]["loss"]) >= max(map(float, counts))
    assert len(model(batch)) == batch["count"]["loss"]


def test_empty_reasoning_that_a_template_writes_is_not_learned(llama_folder: Path) -> None:
    turns = [("goal?", "sport"), ("bank?", "business")]
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    task, _, notes = set_up(llama_folder, [{"messages": messages}], chat_template=REASONING)
    (pieces,) = task.exchange({"messages": messages}).sequences or []
    learned = [piece.text for piece in pieces if piece.has_loss]
    assert learned == ["sport<|im_end|>\n", "business<|im_end|>\n"]
    assert "think" not in "".join(piece.text for piece in pieces)
    assert any("is not learned (1 of the first dialogues)" in note for note in notes)
    # Empty reasoning in the data is data.
    messages[3] = {"role": "assistant", "content": "<think>\n\n</think>\n\nbusiness"}
    *_, last = task.exchange({"messages": messages}).sequences or []
    assert last[-1].text.startswith("<think>\n\n</think>\n\nbusiness")


def test_template_that_opens_the_reasoning_keeps_it_in_the_answer(gpt2_folder: Path) -> None:
    task, _, _ = set_up(gpt2_folder, THOUGHTS, chat_template=OPENED)
    sequences = task.exchange(THOUGHTS[0]).sequences or []
    assert [[piece.text for piece in pieces] for pieces in sequences] == [
        ["<U>goal?<A><think>\n", "a match\n</think>\n\nsport<end>"],
        ["<U>goal?<A>\n\nsport<end><U>bank?<A><think>\n", "a trade\n</think>\n\nbusiness<end>"],
    ]
    plain = [{"messages": [THOUGHTS[0]["messages"][0], {"role": "assistant", "content": "sport"}]}]
    task, _, _ = set_up(gpt2_folder, plain, chat_template=OPENED)
    ((_, answer),) = task.exchange(plain[0]).sequences or []
    assert answer.text == "\n</think>\n\nsport<end>"


def test_template_that_does_not_render_an_answer_is_refused(gpt2_folder: Path) -> None:
    silent = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(DataError, match="does not continue the prompt with the answer"):
        set_up(gpt2_folder, THOUGHTS, chat_template=silent + "{{ add_generation_prompt }}")


def test_calls_are_written_as_json_where_the_template_ignores_them(llama_folder: Path) -> None:
    call = {"type": "function", "function": {"name": "score", "arguments": {"team": "bank"}}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [{"messages": [{"role": "user", "content": "the goal"}, calling]}]
    task, _, notes = set_up(llama_folder, rows)
    text = '{"name": "score", "arguments": {"team": "bank"}}'
    assert loss_text(task, rows[0]) == f" {text}</s>"
    assert any("ignores tool_calls" in note for note in notes)


def test_ignored_roles_and_fields_of_messages_are_noted(llama_folder: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief.", "id": "1"},
                {"role": "user", "content": "the goal", "id": "2"},
                {"role": "assistant", "content": "sport", "id": "3"},
            ]
        }
    ]
    template = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    notes = set_up(llama_folder, rows, chat_template=template)[2]
    assert any("leaves out 1 messages of the role system" in note for note in notes)
    assert any(note.startswith("not read: id of the messages") for note in notes)


def test_a_dialogue_of_many_turns_is_split_once(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = CHATS[0]["messages"][1:3] * 60
    task, _, _ = set_up(gpt2_folder, [{"messages": turns}, *CHATS])
    rendered, render = list[int](), dialogues._render

    def count(tokenizer: Any, messages: Any, **arguments: Any) -> str:
        rendered.append(len(messages))
        return render(tokenizer, messages, **arguments)

    monkeypatch.setattr(dialogues, "_render", count)
    samples = [task.encode({"messages": turns}) for _ in range(5)]
    assert len(rendered) <= 2 * 60 + 1 + 5  # and each time the prompt
    monkeypatch.setattr(dialogues, "MANY_MESSAGES", 1000)
    assert [task.encode({"messages": turns})] * 5 == samples
