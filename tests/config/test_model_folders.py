"""Folders that model.name may give, and the folder of weights that each stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config.model_folders import weights_folder
from finetune.errors import ModelError
from finetune.io.references import resolve_model


def write(*paths: Path, text: str = "{}") -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_run_and_its_adapter_stand_for_its_final_network(tmp_path: Path) -> None:
    final = tmp_path / "final"
    write(tmp_path / "run.json", final / "task.json", final / "config.json")
    write(final / "adapter" / "adapter_config.json")
    for folder in (tmp_path, final, final / "adapter"):
        assert resolve_model(str(folder)) == str(final)


def test_sentence_transformer_stands_for_its_transformer(tmp_path: Path) -> None:
    modules = [{"path": "0_Transformer"}, {"path": "1_Pooling"}]
    write(tmp_path / "modules.json", text=json.dumps(modules))
    write(tmp_path / "0_Transformer" / "config.json", tmp_path / "1_Pooling" / "config.json")
    assert resolve_model(str(tmp_path)) == str(tmp_path / "0_Transformer")


def test_other_adapter_stands_for_itself(tmp_path: Path) -> None:
    write(tmp_path / "adapter_config.json")
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_output_of_trainer_is_refused_with_the_checkpoint_to_take(tmp_path: Path) -> None:
    for step in (5, 10):
        write(tmp_path / f"checkpoint-{step}" / "config.json")
    with pytest.raises(ModelError, match=r"Trainer with 2 .* take the last one, .*checkpoint-10"):
        resolve_model(str(tmp_path))
    state = {"best_model_checkpoint": "elsewhere/checkpoint-5"}
    write(tmp_path / "checkpoint-10" / "trainer_state.json", text=json.dumps(state))
    with pytest.raises(ModelError, match=r"best one, .*checkpoint-5, or the last, .*checkpoint-10"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        (["run.json"], "", "is a run that has not finished"),
        (
            ["run.json", "checkpoints/step-4/model.safetensors"],
            "checkpoints/step-4",
            "take the fin",
        ),
        (["run.json", "checkpoints/step-4/model.safetensors"], "checkpoints", "take the fin"),
        (["bert/config.json", "gpt2/config.json"], "", "take one of them: .*bert, .*gpt2"),
        (["a/final/task.json", "b/run.json"], "", "take one of them: .*a$"),
        (["model.safetensors"], "", "has weights .* but no config.json beside them"),
    ],
)
def test_folder_without_a_network_is_refused_with_what_to_take(
    files: list[str], given: str, message: str, tmp_path: Path
) -> None:
    write(*(tmp_path / name for name in files))
    with pytest.raises(ModelError, match=message):
        resolve_model(str(tmp_path / given))


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"[", b"[1]", b"5", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["preprocessor_config.json", "generation_config.json"])
def test_damaged_settings_that_libraries_would_ignore_are_refused(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text("{}")
    assert weights_folder(tmp_path) == tmp_path
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} .*would be ignored; copy the model here again"):
        weights_folder(tmp_path)
