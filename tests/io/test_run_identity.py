"""Identity of a run: resuming the same one, and folders of runs that differ."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas
import pytest

import finetune
from finetune.config.schema import TrainConfig
from finetune.errors import CheckpointError, DataError
from finetune.io.run_folder import RunFolder
from finetune.io.run_identity import RunIdentity, check_same_run, claim_folder
from tests.support.run_configs import DIGESTS, config
from tests.support.tiny_models import text_rows


def test_check_same_run_resumes_with_the_filled_in_config(folder: RunFolder) -> None:
    resumed = check_same_run(folder, RunIdentity(config(), DIGESTS))
    assert resumed == config(train={"precision": "bf16"})


def test_check_same_run_accepts_a_filled_in_value(folder: RunFolder) -> None:
    assert check_same_run(folder, RunIdentity(config(train={"precision": "bf16"}), DIGESTS))


def test_check_same_run_reports_changed_keys_with_both_values(folder: RunFolder) -> None:
    changed = config(model="gpt2", method={"rank": 32}, train={"seed": 7})
    with pytest.raises(CheckpointError) as caught:
        check_same_run(folder, RunIdentity(changed, DIGESTS))
    text = str(caught.value)
    for key, old, new in [
        ("model.name", "bert", "gpt2"),
        ("method.rank", "8", "32"),
        ("train.seed", "0", "7"),
    ]:
        assert f"{key}: {old} in the run, {new} now" in text
    assert "output.dir=" in text
    assert "--fresh" in text
    assert "--extend" not in text


def test_check_same_run_takes_new_values_of_free_keys(folder: RunFolder) -> None:
    train = {"workers": 3, "log_every": 1, "save_every": 7, "keep_checkpoints": 9, "micro_batch": 2}
    resumed = check_same_run(folder, RunIdentity(config(train=train), DIGESTS))
    assert resumed is not None
    assert resumed.train == TrainConfig(epochs=2, precision="bf16", **train)


def test_check_same_run_needs_extend_for_longer_training(folder: RunFolder) -> None:
    longer = config(train={"epochs": 5})
    with pytest.raises(CheckpointError, match=r"epochs: 2.0 in the run, 5.0 now\n.*--extend"):
        check_same_run(folder, RunIdentity(longer, DIGESTS))
    resumed = check_same_run(folder, RunIdentity(longer, DIGESTS, True))
    assert resumed is not None
    assert resumed.train.epochs == 5


def test_check_same_run_with_extend_rejects_other_changes(folder: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="seed"):
        check_same_run(folder, RunIdentity(config(train={"epochs": 5, "seed": 1}), DIGESTS, True))


def test_check_same_run_rejects_changed_data(folder: RunFolder) -> None:
    with pytest.raises(DataError, match=r"rows of train have changed.*--fresh"):
        check_same_run(folder, RunIdentity(config(), {**DIGESTS, "train": "c"}))
    with pytest.raises(DataError, match="rows of validation"):
        check_same_run(folder, RunIdentity(config(), {"train": "a"}))


def test_check_same_run_returns_none_for_a_run_without_a_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(config(), DIGESTS, {})
    assert check_same_run(folder, RunIdentity(config(train={"seed": 9}), {})) is None


def test_check_same_run_reports_a_damaged_run_json(folder: RunFolder) -> None:
    (folder.path / "run.json").write_text('{"given": ')
    with pytest.raises(CheckpointError, match=r"run.json.*--fresh"):
        check_same_run(folder, RunIdentity(config(), DIGESTS))


def claim(base: Path, identity: RunIdentity) -> tuple[Path, str]:
    """Return the default folder of a run, and the note on it; begin the run there."""
    with claim_folder(identity, base, is_main=True) as (folder, note):
        if not folder.exists:
            folder.begin(identity.given, identity.digests, {})
            folder.write_config(identity.given)
    return folder.path, note


def test_claim_folder_gives_runs_with_other_keys_or_rows_their_own(tmp_path: Path) -> None:
    base = tmp_path / "runs" / "news-bert-lora"
    first = RunIdentity(config(), DIGESTS)
    keys = RunIdentity(config(method={"rank": 16}), DIGESTS)
    rows = RunIdentity(config(), {**DIGESTS, "train": "c"})
    second, third = (base.with_name(f"{base.name}-{number}") for number in (2, 3))
    assert claim(base, first) == (base, "")
    assert claim(base, keys) == (
        second,
        f"{base} holds a run with other keys (method.rank: 8, not 16), so this run has its own",
    )
    assert claim(base, rows)[0] == third
    for identity, folder in ((first, base), (keys, second), (rows, third)):
        assert claim(base, identity) == (folder, "")  # each finds its own again
    extended = RunIdentity(config(train={"epochs": 5}), DIGESTS, extend=True)
    assert claim(base, extended)[0] == base
    free = RunIdentity(config(train={"log_every": 1}), DIGESTS)
    assert claim(base, free)[0] == base


def test_claim_folder_passes_over_damaged_runs_and_other_files(tmp_path: Path) -> None:
    base = tmp_path / "run"
    for name, file in (("run", "run.json"), ("run-2", "notes.txt"), ("run-x", "run.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{")
    (tmp_path / "run-3").write_text("a file")
    folder, note = claim(base, RunIdentity(config(), DIGESTS))
    assert folder == tmp_path / "run-4"
    assert "holds a damaged run" in note


def test_claim_folder_passes_over_another_run_that_has_just_begun(tmp_path: Path) -> None:
    base, first = tmp_path / "run", RunIdentity(config(), DIGESTS)
    with claim_folder(first, base, is_main=True):
        other = RunIdentity(config(train={"seed": 1}), DIGESTS)
        assert claim(base, other)[0] == tmp_path / "run-2"
        with pytest.raises(CheckpointError, match="another training is running"):
            claim(base, first)
    assert not base.exists()


def test_train_without_a_folder_finds_its_own_run_again(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Rows in memory have no name, but content."""
    monkeypatch.chdir(tmp_path)
    keys: dict[str, Any] = {"model": str(bert_folder), "max_steps": 1, "batch_size": 8}
    frames = [pandas.DataFrame(text_rows(12, seed=seed)) for seed in (1, 2)]
    train = partial(finetune.train, "text-classification", method="full", **keys)
    paths = [train(data=frame).path for frame in (*frames, *frames)]
    assert [path.name for path in paths] == ["data-bert-full", "data-bert-full-2"] * 2
    assert capsys.readouterr().out.count("this run is already finished") == 2
