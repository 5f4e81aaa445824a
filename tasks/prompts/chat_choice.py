"""Choice of the chat template for rows of prompt and completion.

Also notes on what a chat template does to the turns of dialogues.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from finetune.errors import ConfigError
from tasks.prompts.dialogues import ignored_parts, rewrites_turns
from tasks.prompts.messages import chat_mark
from tasks.prompts.prompt_config import PromptConfig
from tasks.prompts.row_messages import row_messages, stored_turns
from tasks.prompts.templates import fill_template

# Rows that are looked at.
SAMPLED_ROWS = 100


def choose_chat(
    config: PromptConfig, tokenizer: Any, network: Any, rows: Any
) -> tuple[bool, list[str]]:
    """Return True if prompts and completions are formatted as a dialogue, and a note on it."""
    if config.kind != "prompt":
        return False, []
    sample = list(islice(iter(rows), SAMPLED_ROWS))
    if any(stored_turns(config, row) for row in sample):
        if config.chat is False:
            raise ConfigError(
                "task.chat=false: these rows have lists of messages or earlier turns, which a chat "
                "template formats; remove task.chat"
            )
        return True, ["chat: prompts and completions are turns of a dialogue"]
    if config.chat is not None:
        return config.chat, []
    if network.is_encoder_decoder or not (tokenizer.chat_template or config.chat_template):
        return False, []
    marks = [mark for mark in (_mark_in(config, tokenizer, row) for row in sample) if mark]
    if len(marks) > len(sample) / 2:
        return False, [
            f"chat template: not applied, since {len(marks)} of the first {len(sample)} prompts "
            f"are formatted with {marks[0]!r} already (task.chat=true applies it)"
        ]
    return True, [
        "chat template: a prompt is a turn of the user, its completion the answer of the assistant "
        "(task.chat=false joins them as plain text)"
    ]


def _mark_in(config: PromptConfig, tokenizer: Any, row: Any) -> str:
    """Return the special token or other mark of a formatted prompt; "" if it has none."""
    text = fill_template(str(config.prompt), row)
    return chat_mark(text, [token for token in tokenizer.all_special_tokens if len(token) > 1])


def dialogue_notes(config: PromptConfig, tokenizer: Any, rows: Any, is_causal: bool) -> list[str]:
    """Return notes on turns that the chat template rewrites or leaves out."""
    dialogues = [row_messages(config, row) for row in islice(iter(rows), SAMPLED_ROWS)]
    notes = ignored_parts(tokenizer, dialogues)
    several = rewrites_turns(tokenizer, dialogues) if is_causal else 0
    if several:
        notes.append(
            "chat template: it renders earlier turns differently once later ones follow, so a "
            "dialogue is learned as one sequence an answer, each as the model sees it at "
            f"inference ({several} of the first {len(dialogues)} dialogues)"
        )
    return notes
