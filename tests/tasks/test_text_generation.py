"""The text-generation task: its contract, its keys, and whole runs up to the final model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    pipeline,
)

import finetune
from finetune.config.schema import ModelConfig, RunConfig
from finetune.errors import ConfigError, ModelError
from finetune.inference.predictor import Predictor
from finetune.methods.lora import Lora
from finetune.methods.method_configs import LoraConfig, PartialConfig
from finetune.model import named_parts
from finetune.registry import make_method
from finetune.reporting.run_facts import NOT_APPLICABLE
from finetune.task_parts.samples import Row
from finetune.testing import check_task
from finetune.training.recipes import fill_defaults
from tasks import TextGeneration
from tests.support.command_line import finetune as command
from tests.support.text_generators import (
    ANSWERED,
    CHATS,
    CLOSE,
    NETWORKS,
    PLAIN,
    TEMPLATES,
    set_up,
    train,
)
from tests.support.tiny_models import answered_rows


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        pytest.param(ANSWERED, TEMPLATES, id="prompt"),
        pytest.param(CHATS, {}, id="chat"),
        pytest.param(PLAIN, {}, id="text"),
    ],
)
def test_text_generation_keeps_the_task_contract(
    network: str, rows: list[Row], keys: dict[str, Any], model_folders: dict[str, Path]
) -> None:
    if network in ("t5", "bart") and rows is PLAIN:
        pytest.skip("plain text requires a causal network")
    check_task(TextGeneration(max_new_tokens=4, **keys), rows, str(model_folders[network]))


@pytest.mark.parametrize(
    ("network", "rows", "keys", "message"),
    [
        ("t5", PLAIN, {}, "task.text: a sequence-to-sequence network"),
        ("gpt2", PLAIN, {"generate": True}, "task.generate: plain text has no reference"),
        ("gpt2", PLAIN, {"chat_template": "{{ x }}"}, "task.chat_template requires dialogues"),
    ],
)
def test_text_generation_rejects_incompatible_keys(
    network: str,
    rows: list[Row],
    keys: dict[str, Any],
    message: str,
    model_folders: dict[str, Path],
) -> None:
    with pytest.raises(ConfigError, match=message):
        set_up(model_folders[network], rows, **keys)


def test_max_new_tokens_must_leave_room_for_the_prompt(gpt2_folder: Path) -> None:
    positions = AutoConfig.from_pretrained(gpt2_folder).max_position_embeddings
    keys = TEMPLATES | {"max_new_tokens": positions}
    task, model, _ = set_up(gpt2_folder, ANSWERED, **keys)  # training does not generate
    message = f"task.max_new_tokens: {positions} leaves no room"
    with pytest.raises(ConfigError, match=message):
        Predictor(task, model, torch.device("cpu"))(ANSWERED)
    with pytest.raises(ConfigError, match=message):
        set_up(gpt2_folder, ANSWERED, **keys, generate=True)


def test_stop_rejects_empty_strings(gpt2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task.stop"):
        train(gpt2_folder, tmp_path / "run", ANSWERED, stop=[""], **TEMPLATES)


def test_frozen_method_is_rejected_without_a_head(gpt2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="method=frozen: nothing to train"):
        train(gpt2_folder, tmp_path / "run", PLAIN * 4, method="frozen")


def test_head_lr_is_not_applicable_without_a_head(gpt2_folder: Path) -> None:
    source, method = ModelConfig(name=str(gpt2_folder)), LoraConfig()
    config = RunConfig(task=TextGeneration.Config(), model=source, method=method)
    _, model, _ = set_up(gpt2_folder, PLAIN)
    _, reasons = fill_defaults(config, Lora(method), model, torch.device("cpu"))
    assert reasons["optim.head_lr"] == NOT_APPLICABLE != reasons["optim.lr"]


@pytest.mark.parametrize("network", ["t5", "llama"])
def test_partial_method_unfreezes_from_the_last_block_without_a_head(
    network: str, model_folders: dict[str, Path]
) -> None:
    _, model, _ = set_up(model_folders[network], ANSWERED, **TEMPLATES)
    method = make_method(PartialConfig(blocks=2, unfreeze_every=1))
    notes = method.apply(model)
    assert ["no new head" in note for note in notes] == [True]
    trained = []
    for epoch in (0, 0.9, 1, 5):
        changed = method.unfreeze(model, epoch)
        trained.append(
            (changed, len({part for _, p, part in named_parts(model) if p.requires_grad}))
        )
    assert trained == [(True, 1), (False, 1), (True, 2), (False, 2)]


@pytest.mark.parametrize("network", ["t5", "gpt2"])
def test_partial_method_trains_language_models(
    network: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    keys = {"method": "partial", "max_steps": 2, "batch_size": 4, "unfreeze_every": 0.05}
    run = train(model_folders[network], tmp_path / "run", answered_rows(20), **TEMPLATES, **keys)
    assert run.metrics["validation"]["perplexity"] > 1


def test_tools_column_may_be_missing_in_validation(llama_folder: Path, tmp_path: Path) -> None:
    train_rows = [row | {"tools": '[{"name": "score"}]'} for row in CHATS]
    keys = {"max_steps": 1, "batch_size": 4, "max_new_tokens": 4, "method": "full"}
    run = train(llama_folder, tmp_path, train_rows[2:], validation=CHATS[:2], **keys)
    assert run.predictor.trained_task.config.tools == "tools"


# ---- a LoRA run on dialogues


def dialogues(rows: list[Row]) -> list[Row]:
    """Convert prompts and answers to dialogues of two turns."""
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


def test_train_lowers_the_perplexity(lora_run: finetune.Run) -> None:
    history = lora_run.history()
    perplexities = history[history["split"] == "validation"]["perplexity"].tolist()
    best = lora_run.metrics["validation"]["perplexity"]
    assert best == min(perplexities[1:]) < perplexities[0] / 2


def test_train_reports_scores_and_samples(lora_run: finetune.Run) -> None:
    assert {"rouge1", "rougeL", "bleu", "chrf"} <= lora_run.metrics["validation"].keys()
    lines = (lora_run.path / "reports/validation/samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 8
    answers = {row["answer"].strip() for row in answered_rows(40)}
    assert {sample["reference"].strip() for sample in samples} <= answers
    assert any(sample["before"] != sample["after"] for sample in samples)
    table = (lora_run.path / "reports/validation/samples.md").read_text()
    assert table.startswith("| prompt | reference | before | after |")
    with (lora_run.path / "reports/validation/predictions.csv").open(newline="") as file:
        outcomes = list(csv.DictReader(file))
    assert list(outcomes[0])[:4] == ["row", "true", "predicted", "loss"]
    losses = [float(line["loss"]) for line in outcomes]
    assert losses == sorted(losses, reverse=True)
    assert {line["true"] for line in outcomes} <= answers
    texts = {(sample["reference"], sample["after"]) for sample in samples}
    assert texts <= {(line["true"], line["predicted"]) for line in outcomes}


def test_evaluate_command_scores_generated_text_only_if_asked(
    lora_run: finetune.Run, tmp_path: Path
) -> None:
    rows = dialogues(answered_rows(4, seed=2))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "metrics.json"
    arguments = [str(lora_run.path), str(tmp_path / "chats.jsonl"), "-o", str(output)]
    for generate in (True, False):
        assert command("evaluate", *arguments, f"task.generate={str(generate).lower()}") == 0
        assert ("rougeL" in json.loads(output.read_text())) == generate


def test_final_model_matches_the_pipeline_of_transformers(lora_run: finetune.Run) -> None:
    questions = [{"role": "user", "content": row["body"]} for row in answered_rows(4, seed=1)]
    generate = pipeline("text-generation", model=str(lora_run.path / "final"))
    ours = lora_run.predict([[message] for message in questions])
    for message, prediction in zip(questions, ours, strict=True):
        answer = generate([message], max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]
        assert answer["content"].strip() == prediction["generated_text"]


def test_final_adapter_in_peft_matches_the_merged_model(lora_run: finetune.Run) -> None:
    final = lora_run.path / "final"
    ids = AutoTokenizer.from_pretrained(final)("the match", return_tensors="pt").input_ids
    with torch.inference_mode():
        merged = AutoModelForCausalLM.from_pretrained(final)(ids).logits
        adapted = AutoPeftModelForCausalLM.from_pretrained(final / "adapter")(ids).logits
    assert (merged - adapted).abs().max() <= CLOSE * merged.abs().max()


def test_run_predict_accepts_dialogues_in_a_data_frame(
    lora_run: finetune.Run, tmp_path: Path
) -> None:
    import pandas

    rows = [{"messages": [{"role": "user", "content": "the match"}]}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert lora_run.predict(pandas.read_parquet(tmp_path / "rows.parquet")) == lora_run.predict(
        rows
    )


def test_load_overrides_decoding_keys(lora_run: finetune.Run) -> None:
    row = {"messages": [{"role": "user", "content": "the match"}]}
    short = finetune.load(lora_run.path, max_new_tokens=1)([row])
    assert len(short[0]["generated_text"]) < len(lora_run.predict([row])[0]["generated_text"])
    with pytest.raises(
        ConfigError, match="temprature: unknown key of text-generation; did you mean 'temperature'"
    ):
        finetune.load(lora_run.path, temprature=1)


# ---- output.dtype


@pytest.mark.parametrize("network", ["llama", "bart"])
def test_output_dtype_rounds_the_final_weights_but_not_the_adapter(
    network: str, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {**TEMPLATES, "method": "lora", "max_steps": 2, "output.dtype": "bfloat16"}
    run = train(model_folders[network], tmp_path / "run", ANSWERED * 4, **keys)
    assert "rounded to output.dtype" in capsys.readouterr().out
    differences = run.folder.read("results.json")
    assert 1e-5 < differences["rounding_difference"] < 0.1
    assert differences["reload_difference"] < 1e-6
    final = run.path / "final"
    weights = load_file(final / "model.safetensors")
    weights.pop("final_logits_bias", None)  # a buffer of BART, not a weight
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    adapter = load_file(final / "adapter" / "adapter_model.safetensors").values()
    assert {tensor.dtype for tensor in adapter} == {torch.float32}
    auto = AutoModelForCausalLM if network == "llama" else AutoModelForSeq2SeqLM
    assert auto.from_pretrained(final).dtype == torch.bfloat16
    predictor = finetune.load(run.path)
    assert {parameter.dtype for parameter in predictor.model.parameters()} == {torch.float32}


def test_output_dtype_rejects_float16_overflow_and_names_bfloat16(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    network = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    network.transformer.wte.weight.data[0, 0] = 1e6
    network.save_pretrained(tmp_path / "large")
    AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(tmp_path / "large")
    keys = {"max_steps": 1, "output.dtype": "float16", "precision": "fp32"}
    with pytest.raises(ModelError, match=r"output.dtype=float16: .*output.dtype=bfloat16"):
        train(tmp_path / "large", tmp_path / "run", PLAIN * 4, **keys)
