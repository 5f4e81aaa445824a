"""Folders of other libraries and of this kit as pretrained networks: weights loaded, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import segmentation_models_pytorch as smp
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config.schema import ModelConfig
from finetune.distributed.precision import cast_once
from finetune.errors import ModelError
from finetune.export.final_model import compute_outputs, relative_difference, write_task
from finetune.task import Task
from finetune.task_parts.samples import Row
from tests.support import detection_runs, segmentation_runs, text_generators
from tests.support.image_classifiers import set_up_classifier
from tests.support.text_classifiers import NUMBER, set_up
from tests.support.tiny_models import text_rows
from tests.support.tiny_scenes import scene_rows
from tests.support.tiny_vision import shape_rows

CPU = torch.device("cpu")
EXACT = 1e-6


def outputs(built: tuple[Task, Any], rows: list[Row]) -> list[torch.Tensor]:
    task, model = built
    return compute_outputs(model.eval(), task, rows, CPU)


# ---- adapters


def test_adapter_of_a_run_is_merged_into_its_base(lora_run: Path, tmp_path: Path) -> None:
    final, train, rows = lora_run / "final", text_rows(24), text_rows(4)
    adapter = Path(shutil.copytree(final / "adapter", tmp_path / "adapter"))
    merged = outputs(set_up(final, train), rows)
    assert relative_difference(merged, outputs(set_up(adapter, train), rows)) < EXACT
    assert relative_difference(merged, outputs(set_up(lora_run, train), rows)) == 0


def test_adapter_of_a_run_is_merged_into_a_bare_backbone(lora_run: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(lora_run / "final" / "adapter", tmp_path / "adapter"))
    vectors = []
    for folder in (lora_run, adapter):
        task, model = set_up(folder, text_rows(24), head="pooled")
        batch = task.collate([task.encode(row) for row in text_rows(4)])
        with torch.inference_mode():
            vectors.append(model.eval().features(batch["inputs"])["pooled"])
    assert torch.allclose(*vectors, atol=1e-6)


def test_final_adapter_holds_its_tokenizer(lora_run: Path) -> None:
    alone = AutoTokenizer.from_pretrained(lora_run / "final" / "adapter")
    text = text_rows(1)[0]["text"]
    assert alone(text) == AutoTokenizer.from_pretrained(lora_run / "final")(text)


def test_adapter_of_peft_gives_the_outputs_of_peft(gpt2_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    keys = text_generators.TEMPLATES
    _, model, _ = text_generators.set_up(tmp_path / "adapter", text_generators.ANSWERED, **keys)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected, found = adapted(ids).logits, model.network(ids).logits
    assert torch.allclose(expected, found, atol=1e-5)
    assert not [name for name, _ in model.network.named_parameters() if "lora" in name]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapter_that_cannot_be_used_is_refused(
    lora_run: Path, vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(lora_run / "final" / "adapter", tmp_path / "adapter"))
    config = adapter / "adapter_config.json"
    text = config.read_text()
    base = str(peft.PeftConfig.from_pretrained(adapter).base_model_name_or_path)
    config.write_text(text.replace(base, str(vision_networks["resnet"])))
    with pytest.raises(ModelError, match=r"a network of timm.*give the merged network"):
        set_up(adapter, text_rows(9))
    config.write_text(text.replace(base, str(tmp_path / "gone" / "bert")))
    with pytest.raises(ModelError, match=r"adapter for .*gone/bert, which is not on this machine"):
        set_up(adapter, text_rows(9))
    config.write_text(text.replace(f'"{base}"', "null"))
    with pytest.raises(ModelError, match=r"does not name its base model"):
        set_up(adapter, text_rows(9))
    config.write_text(text)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"without adapter_model.safetensors"):
        set_up(adapter, text_rows(9))


def test_folder_of_sentence_transformers_keeps_its_pooling(
    bert_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "st"))
    types = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "a.b.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(types))
    (folder / "1_Pooling").mkdir()
    for config in ({"pooling_mode": "cls"}, {"pooling_mode_cls_token": True}):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
        task, _ = set_up(folder, text_rows(9), head="pooled")
        assert task.pooling_ == "cls"
    assert set_up(folder, text_rows(9), head="pooled", pooling="mean")[0].pooling_ == "mean"


def test_weights_of_another_network_are_refused(
    bert_folder: Path, gpt2_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "mixed"))
    shutil.copy(gpt2_folder / "model.safetensors", folder)
    for head in ("native", "pooled"):
        with pytest.raises(ModelError, match=r"has weights for 0 of the \d+ tensors of Bert"):
            set_up(folder, text_rows(9), head=head)


# ---- heads


def test_head_of_the_same_labels_is_sorted_like_those_of_the_data(
    bert_folder: Path, tmp_path: Path
) -> None:
    task, model = set_up(bert_folder, text_rows(9), labels=["tech", "sport", "business"])
    task.save(model, tmp_path)
    before = outputs((task, model), text_rows(4))[0]
    again = set_up(tmp_path, text_rows(9))
    assert torch.allclose(before.flip(1), outputs(again, text_rows(4))[0], atol=1e-6)
    assert again[1].notes == [
        "head: kept from the checkpoint, which has the same labels in another order"
    ]
    _, other = set_up(tmp_path, [{**row, "label": row["label"][::-1]} for row in text_rows(9)])
    assert other.notes == ["head: kept from the checkpoint, whose labels are tech, sport, business"]


def test_head_of_a_regression_keeps_its_unit(bert_folder: Path, tmp_path: Path) -> None:
    task, model = set_up(bert_folder, NUMBER)
    before = outputs((task, model), NUMBER)
    model.consolidate()
    task.save(model, tmp_path)
    assert relative_difference(before, outputs(set_up(tmp_path, NUMBER), NUMBER)) < 1e-5


def test_large_targets_of_a_regression_are_not_rounded_to_bfloat16(
    bert_folder: Path, tmp_path: Path
) -> None:
    years = [{**row, "label": 2000 + float(row["label"])} for row in NUMBER]
    task, model = set_up(bert_folder, years, kind="number")
    batch = task.collate([task.encode(row) for row in years])
    with torch.inference_mode():
        exact = model.eval()(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(batch)
    deviation = task.targets.state["deviation"]
    assert float((exact - rounded).abs().max()) < 0.05 * deviation
    model.consolidate()  # the last layer of a saved network computes in years
    task.save(model, tmp_path)
    saved = task.load_model(ModelConfig(name=str(tmp_path))).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), cast_once(saved, "bf16"):
        again = saved(batch)
    assert float((exact - again).abs().max()) < 0.05 * deviation
    assert torch.allclose(saved(batch), exact, rtol=1e-6)


# ---- timm, smp, and FCOS of this kit


def test_timm_head_is_kept_for_the_same_labels(
    vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    task, model = set_up_classifier(vision_networks["resnet"])
    torch.nn.init.normal_(model.last_layer().weight)
    before = outputs((task, model), shape_rows(4))
    task.save(model, tmp_path)
    again = set_up_classifier(tmp_path)
    assert relative_difference(before, outputs(again, shape_rows(4))) < EXACT
    assert any("head: kept from the checkpoint" in note for note in again[1].notes)


@pytest.mark.parametrize("same", [True, False])
def test_smp_network_keeps_its_weights_and_its_head_for_the_same_labels(
    same: bool, segmentation_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    task, model = segmentation_runs.build(segmentation_networks["resnet"], scenes)
    task.save(model, tmp_path)
    if same:
        write_task(tmp_path / "task.json", task, task.name, "")
    _, loaded = segmentation_runs.build(tmp_path, scenes)
    theirs, ours = model.network.state_dict(), loaded.network.state_dict()
    differing = {name for name in theirs if not torch.equal(theirs[name], ours[name])}
    head = {"segmentation_head.0.weight"}
    assert differing == (set() if same else head)
    assert [("kept" in note) for note in loaded.notes if note.startswith("head:")] == [same]


def test_smp_network_with_an_encoder_of_smp_and_an_activation_gives_logits(
    scenes: Path, tmp_path: Path
) -> None:
    network = smp.FPN("resnet18", encoder_weights=None, classes=2, activation="sigmoid").eval()
    network.save_pretrained(tmp_path)
    task, model = segmentation_runs.build(tmp_path, scenes)
    assert {block for blocks in model.blocks for block in blocks} >= {"encoder.conv1"}
    logits = outputs((task, model), scene_rows(scenes, 2))[0]
    assert logits.shape[1] == 5
    assert float(logits.min()) < 0
    task.save(model, tmp_path / "again")
    loaded = smp.from_pretrained(tmp_path / "again")
    assert torch.equal(loaded.encoder.conv1.weight, network.encoder.conv1.weight)


def test_fcos_keeps_its_weights_but_the_classes_of_other_labels(
    detection_networks: dict[str, Path], object_rows: list[Row], tmp_path: Path
) -> None:
    task, model, _ = detection_runs.build(detection_networks["fcos"], object_rows)
    task.save(model, tmp_path)
    before = compute_outputs(model, task, object_rows[:2], CPU)
    again, same, notes = detection_runs.build(tmp_path, object_rows)
    assert relative_difference(before, compute_outputs(same, again, object_rows[:2], CPU)) < EXACT
    assert any("class head: kept" in note for note in notes)
    labels = [*task.labels, "other"]
    _, other, notes = detection_runs.build(tmp_path, object_rows, labels=labels, image_size=96)
    theirs, ours = model.network.state_dict(), other.network.state_dict()
    differing = {name for name in theirs if not torch.equal(theirs[name], ours[name])}
    assert differing == {f"head.classification_head.cls_logits.{p}" for p in ("weight", "bias")}
    assert any(f"class head: new, for {len(labels)} labels" in note for note in notes)


def test_folder_for_another_task_is_refused_with_what_it_is(
    vision_networks: dict[str, Path],
    segmentation_networks: dict[str, Path],
    scenes: Path,
    bert_folder: Path,
    tmp_path: Path,
) -> None:
    task, model = segmentation_runs.build(segmentation_networks["resnet"], scenes)
    task.save(model, tmp_path)
    with pytest.raises(ModelError, match="segmentation_models_pytorch, for task=segmentation"):
        set_up_classifier(tmp_path)
    with pytest.raises(ModelError, match="a network of timm, for images"):
        set_up(vision_networks["resnet"], text_rows(9))
    with pytest.raises(ModelError, match="it is a network for images. Choose a network for this"):
        set_up(vision_networks["vit"], text_rows(9))
