"""Names of the columns of dialogues, prompts and answers in public datasets, in lower case."""

from __future__ import annotations

MESSAGE_NAMES = ("messages", "conversations", "conversation", "chat", "dialogue")
SYSTEM_NAMES = (
    "system",
    "system_prompt",
    "system_message",
    "systeminstruction",
    "system_instruction",
)
HISTORY_NAMES = ("history",)
# Column names of prompt and completion in public datasets.
COLUMN_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("instruction", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("problem", "solution"),
    ("input", "output"),
    ("input", "target"),
    ("input", "response"),
    ("context", "response"),
    ("dialogue", "response"),
    ("post", "reply"),
    ("human", "gpt"),
    ("inputs", "targets"),
    ("input_text", "target_text"),
    ("input_text", "output_text"),
    ("source_text", "target_text"),
    ("source", "target"),
    ("src", "tgt"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "headline"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
)
# Columns that are no plain text, even if no other column holds sentences.
QUESTION_NAMES = ("prompt", "instruction", "question", "query", "problem", "input_text", "source")
# Columns that belong to a prompt beside its question, and whether they come before it.
CONTEXT_COLUMNS = {
    "instruction": (("input", False), ("context", False)),
    "question": (("context", True), ("passage", True), ("background", True)),
    "query": (("context", True), ("passage", True)),
    "prompt": (("context", True), ("input", False)),
}
# In SQuAD, a question has a list of answers, of which the first is learned.
ANSWERS = ("answers", "answers[text][0]")
