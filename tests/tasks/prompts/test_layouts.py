"""Layouts of text generation: prompts, contexts, system prompts, histories, and what fits none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.errors import AmbiguityError, DataError
from finetune.task_parts.samples import Row
from tasks import TextGeneration
from tasks.prompts.row_messages import row_messages
from tests.support.contract import resolve
from tests.support.text_generators import train

ASKED = [{"role": "user", "content": "a goal?"}]
ANSWERED = [{"role": "assistant", "content": "yes"}]


def columns_of(*rows: Row) -> dict[str, list[Any]]:
    """Turn rows into {column: values}, with None for missing values."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def read(row: Row, **keys: Any) -> tuple[TextGeneration, list[str]]:
    """Resolve a task on a table of one row; return it with the notes."""
    task = TextGeneration(**keys)
    notes = resolve(task, columns_of(row, row))
    assert not list(task.rows.validate(row))
    return task, notes


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        (
            {"question": "who", "context": "a passage", "answer": "it"},
            "{context}\n\n{question}\n",
            "{answer}",
        ),
        (
            {"instruction": "do", "context": None, "response": "done", "category": "x"},
            "{instruction}\n\n{context}\n",
            "{response}",
        ),
        (
            {"instruction": "do", "input": "", "output": "done", "text": "do done"},
            "{instruction}\n\n{input}\n",
            "{output}",
        ),
        ({"input_text": "a b", "target_text": "c"}, "{input_text}\n", "{target_text}"),
        ({"query": "a b", "response": "c"}, "{query}\n", "{response}"),
        ({"problem": "a b", "solution": "c"}, "{problem}\n", "{solution}"),
        ({"prompt": ASKED, "completion": ANSWERED}, "{prompt}\n", "{completion}"),
        (
            {"question": "who", "context": "c", "answers": {"text": ["it"], "answer_start": [0]}},
            "{context}\n\n{question}\n",
            "{answers[text][0]}",
        ),
        # The prompt of a formatted row ends where the answer begins.
        ({"prompt": "[INST] a [/INST]", "completion": "b"}, "{prompt}", "{completion}"),
    ],
)
def test_resolve_reads_prompts_with_their_context(row: Row, prompt: str, completion: str) -> None:
    task, notes = read(row)
    assert (task.resolved_.prompt, task.resolved_.completion) == (prompt, completion)
    assert notes[0].startswith(f"prompt: {prompt.strip()!r}, completion: {completion!r}")


def test_null_context_is_an_empty_one() -> None:
    task, _ = read({"instruction": "name a bank", "input": None, "output": "one"})
    assert task.rows.identity({"instruction": "a", "input": None}) == "a\n\n\n"
    faults = list(task.rows.validate({"instruction": None, "input": "x", "output": "one"}))
    assert faults == ["instruction is None, not text"]
    (fault,) = task.rows.validate({"instruction": " ", "input": None, "output": "one"})
    assert fault == "the prompt is empty"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a b", "answer": "c", "response": "d"},
            "several readings; choose one: task.prompt='{question}' task.completion='{answer}', or "
            "task.prompt='{question}' task.completion='{response}'",
        ),
        ({"x": ASKED + ANSWERED, "y": ASKED + ANSWERED}, "task.messages=x, or task.messages=y"),
        (
            {"instruction": "a b", "completions": [{"response": "c"}]},
            "set task.prompt=instruction with task.completion=COLUMN, or task.text=instruction",
        ),
        (
            {"first": "a b", "second": "c d", "n": 1},
            "Columns seen: first (sentences), second (sentences), n (numbers). Set task.messages",
        ),
        ({"text": ["a b", "c"], "label": "x"}, "column 'text' holds the text by its name, but its"),
        ({"x": "one", "tags": [["a"]]}, "Columns seen: x (short texts), tags (lists)"),
    ],
)
def test_resolve_names_the_readings_and_the_keys(row: Row, message: str) -> None:
    with pytest.raises(DataError) as error:
        resolve(TextGeneration(), columns_of(row, row))
    assert message in str(error.value)


# ---- system prompts


def system_of(task: TextGeneration, row: Row) -> list[str]:
    """Return the system prompts of a row's messages."""
    messages = row_messages(task.resolved_, row)
    return [message["content"] for message in messages if message["role"] == "system"]


def test_system_column_begins_the_dialogue() -> None:
    talk = [{"from": "human", "value": "a goal?"}, {"from": "gpt", "value": "yes"}]
    row = {"system": "Be brief.", "conversations": talk}
    task, notes = read(row)
    assert "system prompt: column 'system', by its name" in notes
    assert task.rows.inputs == ["conversations", "system"]
    assert system_of(task, row) == ["Be brief."]
    assert system_of(task, row | {"system": None}) == []
    assert task.rows.identity(row) != task.rows.identity(row | {"system": "Be long."})
    task, _ = read({"system_prompt": "Be brief.", "question": "a goal?", "response": "yes"})
    assert task.resolved_.system == "{system_prompt}"


def test_system_text_is_the_default_of_dialogues_without_one() -> None:
    row = {"messages": ASKED + ANSWERED}
    task, _ = read(row, system="Be brief.")
    assert system_of(task, row) == ["Be brief."]
    own = [{"role": "system", "content": "Be long."}, *row["messages"]]
    assert system_of(task, {"messages": own}) == ["Be long."]
    with pytest.raises(DataError, match="'sytem' is neither a column, .* did you mean 'system'"):
        read(row | {"system": "Be brief."}, system="sytem")
    with pytest.raises(DataError, match="task.system requires dialogues or prompts"):
        read({"text": "a b"}, system="Be brief.")


def test_two_system_prompts_of_one_row_are_a_fault() -> None:
    own = [{"role": "system", "content": "Be long."}, *ASKED, *ANSWERED]
    task = TextGeneration(messages="messages", system="{system}")
    (fault,) = task.rows.validate({"messages": own, "system": "Be brief."})
    assert "'Be long.', and task.system={system} has another, 'Be brief.'" in fault
    assert not list(task.rows.validate({"messages": own, "system": "Be long."}))


def test_trained_task_reads_no_column_that_it_was_not_trained_on(
    llama_folder: Path, tmp_path: Path
) -> None:
    rows = [{"messages": ASKED + ANSWERED}] * 4
    keys = {"max_steps": 1, "batch_size": 4, "validation": 0, "method": "full"}
    run = train(llama_folder, tmp_path / "run", rows, **keys)
    plain = finetune.evaluate(run.path, rows)
    more = [row | {"system": "Be brief.", "tools": "[]"} for row in rows]
    assert finetune.evaluate(run.path, more) == plain
    task, _ = read(more[0])
    assert task.rows.inputs == ["messages", "tools", "system"]


# ---- histories


@pytest.mark.parametrize(
    "history", [[["a match?", "no"]], '[["a match?", "no"]]', [ASKED[0] | {"content": "a match?"}]]
)
def test_history_holds_the_earlier_turns(history: Any) -> None:
    row = {"instruction": "a goal?", "input": "", "output": "yes", "history": history}
    task, notes = read(row)
    assert notes[-1] == "history: column 'history', earlier turns of the dialogue"
    assert task.rows.inputs == ["instruction", "input", "history"]
    contents = [message["content"] for message in row_messages(task.resolved_, row)]
    assert contents[0] == "a match?"
    assert contents[-2:] == ["a goal?", "yes"]


def test_malformed_history_is_a_fault() -> None:
    task = TextGeneration(prompt="{q}", completion="{a}", history="past")
    (fault,) = task.rows.validate({"q": "x", "a": "y", "past": [["only one"]]})
    assert fault == "past: ['only one'] is not a [user, assistant] pair of texts"


# ---- the first row as read


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": "a goal?", "completion": "yes"}, "prompt 'a goal?' -> assistant 'yes'"),
        ({"messages": ASKED + ANSWERED}, "user 'a goal?' | assistant 'yes'"),
        ({"text": "a goal"}, "text 'a goal'"),
    ],
)
def test_describe_shows_the_prompt_and_the_answer(row: Row, text: str) -> None:
    task, _ = read(row)
    assert task.rows.describe(row) == text


def test_describe_shows_a_malformed_row_as_it_is() -> None:
    task, _ = read({"prompt": "a goal?", "completion": "yes"})
    assert (
        task.rows.describe({"prompt": None, "completion": "yes"})
        == "prompt None -> completion 'yes'"
    )


def test_describe_shortens_texts_and_dialogues_in_the_middle() -> None:
    task, _ = read({"text": "a goal"})
    text = task.rows.describe({"text": f"start {'x' * 500} end"})
    assert text.startswith("text 'start ")
    assert text.endswith(" end'")
    assert len(text) < 140
    task, _ = read({"messages": ASKED + ANSWERED})
    assert "(2 more messages)" in task.rows.describe({"messages": (ASKED + ANSWERED) * 3})


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("system", [{"text": "Be kind."}]),
        ("systemInstruction", {"role": "system", "parts": [{"text": "Be kind."}]}),
        ("system_prompt", "Be kind."),
    ],
)
def test_system_prompts_are_read_in_the_shapes_of_contents(name: str, prompt: Any) -> None:
    row = {name: prompt, "messages": [*ASKED, *ANSWERED]}
    task, _ = read(row)
    first = row_messages(task.resolved_, row)[0]
    assert (first["role"], first["content"]) == ("system", "Be kind.")


@pytest.mark.parametrize("name", ["summary_of_it", "simplified", "prompt", "caption"])
def test_resolve_refuses_a_second_column_of_sentences_beside_a_text(name: str) -> None:
    rows = [{"text": f"the words of row {n}", name: f"more words of row {n}"} for n in range(24)]
    with pytest.raises(AmbiguityError, match=f"task.prompt=text task.completion={name}, or"):
        resolve(TextGeneration(), columns_of(*rows))
    task = TextGeneration(text="text")
    resolve(task, columns_of(*rows))
    assert task.resolved_.text == "{text}"


def test_resolve_reads_a_text_beside_its_title() -> None:
    rows = [{"title": f"the title of row {n}", "text": f"words of row {n}"} for n in range(24)]
    task = TextGeneration()
    resolve(task, columns_of(*rows))
    assert task.resolved_.text == "{text}"
