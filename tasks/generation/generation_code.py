"""Model-card code that generates text with a published model, without this kit.

Each snippet defines `write`, which maps a prompt, or the messages of a dialogue, to generated text.
"""

from __future__ import annotations

import json
from typing import Any

from finetune.task_parts.views import BASE, REPOSITORY
from tasks.generation.generation_config import DecodingConfig

CAUSAL = """
from transformers import pipeline

pipe = pipeline("text-generation", "{repository}")


def write(prompt):
    outputs = pipe(prompt, return_full_text=False, {settings})
    return outputs[0]["generated_text"]


print(write({example}))
"""

ADAPTED_CAUSAL = """
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{repository}").merge_and_unload()
tokenizer = AutoTokenizer.from_pretrained("{base}"){template}
pipe = pipeline("text-generation", model, tokenizer=tokenizer)


def write(prompt):
    outputs = pipe(prompt, return_full_text=False, {settings})
    return outputs[0]["generated_text"]


print(write({example}))
"""

SEQ2SEQ = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("{repository}").eval()
tokenizer = AutoTokenizer.from_pretrained("{repository}")


def write(prompt):
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), {settings})
    return tokenizer.decode(ids[0], skip_special_tokens=True)


print(write({example}))
"""

ADAPTED_SEQ2SEQ = """
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

base = AutoModelForSeq2SeqLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{repository}").eval()
tokenizer = AutoTokenizer.from_pretrained("{base}")


def write(prompt):
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), {settings})
    return tokenizer.decode(ids[0], skip_special_tokens=True)


print(write({example}))
"""


def generation_card_code(config: Any, is_causal: bool, template: str | None) -> tuple[str, str]:
    """Return the code for the merged network and the code for its adapter.

    `template` is the chat template if the tokenizer of the base model lacks it.
    """
    codes = (CAUSAL, ADAPTED_CAUSAL) if is_causal else (SEQ2SEQ, ADAPTED_SEQ2SEQ)
    placeholders = {
        "repository": REPOSITORY,
        "base": BASE,
        "settings": _settings(config, "pipe.tokenizer" if is_causal else "tokenizer"),
        "example": _example(config),
        "template": f"\ntokenizer.chat_template = {template!r}" if template else "",
    }
    code, adapted = (text.format(**placeholders).strip() for text in codes)
    return code, adapted


def _settings(config: DecodingConfig, tokenizer: str) -> str:
    """Return arguments of `generate` for the same decoding; `tokenizer` is its name in the code."""
    settings: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "do_sample": False}
    if config.temperature > 0:
        settings |= {"do_sample": True, "temperature": config.temperature}
        settings |= {"top_p": config.top_p, "top_k": config.top_k or 0}
    if config.beams > 1:
        settings["num_beams"] = config.beams
    if config.stop:
        settings["stop_strings"] = config.stop
    arguments = [f"{name}={value!r}" for name, value in settings.items()]
    return ", ".join(arguments + [f"tokenizer={tokenizer}"] * bool(config.stop))


def _example(config: Any) -> str:
    """Return an example argument of `write`: the prompt template, with its columns unfilled."""
    if config.uses_chat:
        system = [{"role": "system", "content": config.system}] if config.system else []
        question = "A question?" if config.kind == "chat" else config.prompt.strip()
        return json.dumps([*system, {"role": "user", "content": question}], ensure_ascii=False)
    return repr(config.prompt if config.kind == "prompt" else "A text begins")
