"""Report on text generation: losses by row and token, samples before and after training.

A few rows are generated for the report; of a run that wrote samples, those, as their texts from
before training are known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from finetune.audit.evidence import Evidence
from finetune.audit.sections import WORST, Card, Cards, Note, ReportSection
from finetune.batching.data_loader import encode_batch
from finetune.config.schema import ModelConfig
from finetune.distributed.devices import as_float32, to_device
from finetune.errors import FinetuneError
from finetune.task_parts.samples import Row
from finetune.task_parts.views import Explanation
from tasks.audits.loss_sections import loss_section
from tasks.audits.word_pieces import group_words
from tasks.audits.written_sections import Answer, Written, answer_section, sample_section
from tasks.backbones.pretrained import from_pretrained
from tasks.generation.codecs import CausalCodec
from tasks.generation.decoding import Continuation, continue_prompts
from tasks.generation.documents import chunk_of
from tasks.generation.language_models import load_language_model

if TYPE_CHECKING:
    from tasks.text_generation import TextGeneration

GENERATED = 24  # rows
TEXT_PROMPT = 32  # tokens of a running text that the network continues
WORST_SHOWN = 8  # rows
MOST_LOADED = 2_000_000_000
"""Parameters up to which the network from before training is loaded beside the trained one."""
_AT_ONCE = 8  # prompts in a batch
_CONTEXT, _WORDS = 25, 250  # words before the first one with loss, and from there


class Prompt(NamedTuple):
    """What the network continues, and the reference.

    Attributes:
        number: of the row.
    """

    number: int
    text: str
    ids: list[int]
    reference: str


def generation_sections(task: TextGeneration, evidence: Evidence) -> list[ReportSection]:
    """Return the sections of a report: losses, generated texts, samples, the worst rows."""
    stats = evidence.stats
    sums, tokens = stats["loss"].double().numpy(), stats["tokens"].numpy()
    worst = np.argsort(-(sums / np.maximum(tokens, 1)), kind="stable")[:WORST_SHOWN].tolist()
    sections = [loss_section(sums, tokens, evidence.numbers)]
    known = _untrained_samples(evidence)
    prompts = _choose_prompts(task, evidence, known)
    if prompts:
        notes, answers = _answer(task, evidence, prompts, known)
        ends, limit = task.resolved_.kind != "text", task.resolved_.max_new_tokens
        sections.append(answer_section(answers, limit, notes, ends=ends))
        sections.append(sample_section(answers, ends=ends))
    return [*sections, _worst_section(task, evidence, worst)]


# ---- generated texts


def _choose_prompts(
    task: TextGeneration, evidence: Evidence, known: dict[str, str]
) -> list[Prompt]:
    """Return the prompts of rows that are spread over the split, or of those with known samples."""
    count = len(evidence)
    places = list(range(count)) if known else _spread(count)
    prompts = []
    for position, row in zip(places, evidence.stream(places), strict=True):
        prompt = _prompt(task, row, int(evidence.numbers[position]))
        if prompt.reference and (not known or prompt.text in known):
            prompts.append(prompt)
        if len(prompts) == GENERATED:
            break
    return prompts


def _spread(count: int) -> list[int]:
    some = min(count, GENERATED)
    return [count * place // some for place in range(some)]


def _prompt(task: TextGeneration, row: Row, number: int) -> Prompt:
    """Return the prompt of a row; of a running text, its first tokens."""
    codec, tokenizer = task.codec_, task.tokenizer_
    exchange = task.exchange(row)
    if task.resolved_.kind != "text" or not isinstance(codec, CausalCodec):
        ids = codec.encode(exchange)["inputs"]["prompt_ids"]
        return Prompt(number, exchange.prompt, ids, task.reference(row))
    chunk = chunk_of(row)
    ids = (codec.whole(exchange) if chunk is None else chunk).ids
    start = max(1, min(TEXT_PROMPT, len(ids) // 2))
    end = start + task.resolved_.max_new_tokens
    head, rest = (
        tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:start], ids[start:end])
    )
    return Prompt(number, head, ids[:start], rest.strip())


def _answer(
    task: TextGeneration, evidence: Evidence, prompts: Sequence[Prompt], known: dict[str, str]
) -> tuple[list[str], list[Answer]]:
    """Generate the texts of prompts; return notes, and the texts beside those from before."""
    after = _continue(task, evidence.measured.model.network, prompts)
    before: list[Written | None]
    notes, before = [], [None] * len(prompts)
    if known:
        before = [_written(task, known[prompt.text]) for prompt in prompts]
    else:
        note, texts = _continue_untrained(task, evidence, prompts)
        notes += [note] if note else []
        before = [_written(task, *text) for text in texts] or before
    limit, answers = task.resolved_.max_new_tokens, []
    for prompt, old, new in zip(prompts, before, after, strict=True):
        reference = _written(task, prompt.reference)
        reference = reference._replace(is_ended=len(reference.ids) <= limit)
        answers.append(Answer(prompt.number, prompt.text, reference, _written(task, *new), old))
    return notes, answers


def _written(task: TextGeneration, text: str, is_ended: bool | None = None) -> Written:
    return Written(text, task.tokenizer_(text, add_special_tokens=False).input_ids, is_ended)


def _continue(task: TextGeneration, network: Any, prompts: Sequence[Prompt]) -> list[Continuation]:
    """Generate the continuations of prompts in batches of similar length."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    found: dict[int, Continuation] = {}
    for start in range(0, len(order), _AT_ONCE):
        some = order[start : start + _AT_ONCE]
        samples = [
            {"inputs": {"input_ids": prompts[n].ids, "prompt_ids": prompts[n].ids}} for n in some
        ]
        batch = to_device(task.codec_.prompts(samples), network.device)
        with torch.inference_mode():
            texts = continue_prompts(network, task.tokenizer_, batch, task.resolved_)
        found.update(zip(some, texts, strict=True))
    return [found[index] for index in range(len(prompts))]


def _untrained_samples(evidence: Evidence) -> dict[str, str]:
    """Return the texts from before training that the run wrote for these rows, {prompt: text}."""
    if evidence.run is None:
        return {}
    file = evidence.run.path / "reports" / evidence.name / "samples.jsonl"
    if not file.is_file():
        return {}
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["prompt"]: line["before"] for line in lines}


def _continue_untrained(
    task: TextGeneration, evidence: Evidence, prompts: Sequence[Prompt]
) -> tuple[str, list[Continuation]]:
    """Load the network from before training and generate; return a note if that is not possible."""
    trained: Any = evidence.measured.model.network
    if evidence.run is None:
        return "", []
    remedy = "task.generate=true keeps samples from before a training."
    if trained.num_parameters() > MOST_LOADED:
        return f"The network from before training is too large to load it as well; {remedy}", []
    source = evidence.run.read_section("model", ModelConfig)
    source = source.model_copy(update={"trust_remote_code": False})
    try:
        config = from_pretrained("AutoConfig", source)
        model = load_language_model(source, config, task.tokenizer_)
    except FinetuneError:  # which names a folder of this machine
        return f"The network from before training could not be loaded; {remedy}", []
    return "", _continue(task, model.network.to(trained.device).eval(), prompts)


# ---- the worst rows


def _worst_section(task: TextGeneration, evidence: Evidence, worst: Sequence[int]) -> ReportSection:
    """Show rows with their words colored by their losses."""
    sums, tokens, cards = evidence.stats["loss"], evidence.stats["tokens"], list[Card]()
    for position, row in zip(worst, evidence.rows(worst), strict=True):
        count = int(tokens[position])
        facts = {
            "loss per token": f"{float(sums[position]) / max(count, 1):.4f}",
            "tokens": str(count),
        }
        title = f"row {evidence.numbers[position]}"
        words = explain_losses(task, evidence.measured.model, row)
        cards.append(Card(title, facts, evidence.content(row), explanation=words))
    note = (
        "The rows with the largest mean loss. Words are the more orange, the less probable they "
        "were; point at one for the log-probability of its tokens."
    )
    if task.resolved_.kind != "text":
        note += " Words without a color are the end of the prompt, which is not learned."
    return ReportSection(WORST, "Worst rows", [Note(note), Cards(WORST, cards)])


def explain_losses(task: TextGeneration, model: Any, row: Row) -> Explanation | None:
    """Return the words of a row with the log-probabilities of their tokens, 0 for the prompt."""
    device = next(model.network.parameters()).device
    batch = to_device(encode_batch(task, [row]), device)
    with torch.inference_mode():
        outputs = as_float32(model(batch))
    chosen = batch["targets"]["ids"]
    found = outputs.log_softmax(-1).gather(-1, chosen[:, None])[:, 0].tolist()
    ids, mask = task.codec_.learned(task.encode(row))
    if [index for index, has_loss in zip(ids, mask, strict=True) if has_loss] != chosen.tolist():
        return None  # several sequences that were packed in another order
    scores = iter(found)
    by_token = [next(scores) if has_loss else 0.0 for has_loss in mask]
    groups = group_words(task.tokenizer_, ids)
    first = next((n for n, (_, group) in enumerate(groups) if any(mask[t] for t in group)), 0)
    shown = groups[max(first - _CONTEXT, 0) : first + _WORDS]
    words = [(word, sum(by_token[token] for token in group)) for word, group in shown]
    return Explanation(words, note="The beginning." if len(groups) > first + _WORDS else "")
