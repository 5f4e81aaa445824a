"""How a published language model is used without this kit: the code on its card.

Each piece defines `write`: a prompt, or the messages of a dialogue -> what is written after it.
"""

from __future__ import annotations

from typing import Any

from finetune.task_parts import BASE, REPOSITORY
from tasks.generation.decoding import DecodingConfig

CAUSAL = """
from transformers import pipeline

pipe = pipeline("text-generation", "{repository}")


def write(prompt):
    said = pipe(prompt, return_full_text=False, {settings})
    return said[0]["generated_text"]


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
    said = pipe(prompt, return_full_text=False, {settings})
    return said[0]["generated_text"]


print(write({example}))
"""

SEQUENCES = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("{repository}").eval()
tokenizer = AutoTokenizer.from_pretrained("{repository}")


def write(prompt):
    written = model.generate(**tokenizer(prompt, return_tensors="pt"), {settings})
    return tokenizer.decode(written[0], skip_special_tokens=True)


print(write({example}))
"""

ADAPTED_SEQUENCES = """
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

base = AutoModelForSeq2SeqLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{repository}").eval()
tokenizer = AutoTokenizer.from_pretrained("{base}")


def write(prompt):
    written = model.generate(**tokenizer(prompt, return_tensors="pt"), {settings})
    return tokenizer.decode(written[0], skip_special_tokens=True)


print(write({example}))
"""


def generation_card_code(config: Any, is_causal: bool, template: str | None) -> tuple[str, str]:
    """The code for a merged network and that for its adapter.

    `template` is the chat template that the base's own tokenizer has not.
    """
    codes = (CAUSAL, ADAPTED_CAUSAL) if is_causal else (SEQUENCES, ADAPTED_SEQUENCES)
    blanks = {
        "repository": REPOSITORY,
        "base": BASE,
        "settings": _settings(config, "pipe.tokenizer" if is_causal else "tokenizer"),
        "example": _example(config),
        "template": f"\ntokenizer.chat_template = {template!r}" if template else "",
    }
    code, adapted = (text.format(**blanks).strip() for text in codes)
    return code, adapted


def _settings(config: DecodingConfig, tokenizer: str) -> str:
    """What `generate` is told, so that it writes as here; `tokenizer` names that of the code."""
    told: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "do_sample": False}
    if config.temperature > 0:
        told |= {"do_sample": True, "temperature": config.temperature}
        told |= {"top_p": config.top_p, "top_k": config.top_k or 0}
    if config.beams > 1:
        told["num_beams"] = config.beams
    if config.stop:
        told["stop_strings"] = config.stop
    words = [f"{name}={value!r}" for name, value in told.items()]
    return ", ".join(words + [f"tokenizer={tokenizer}"] * bool(config.stop))


def _example(config: Any) -> str:
    """What `write` is given: the prompt as it was trained, its columns open."""
    if config.kind == "chat":
        return '[{"role": "user", "content": "A question?"}]'
    return repr(config.prompt if config.kind == "prompt" else "A text begins")
