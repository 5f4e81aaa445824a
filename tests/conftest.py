"""Fixtures shared by all tests: no hub access, a temporary feature cache, tiny models and data."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers and datasets read them
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Before torch reads it: threads only slow down tiny matrices, and two workers on two cores.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Feature cache of the session, instead of the one in the home folder."""
    folder = tmp_path_factory.mktemp("finetune-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def patient_console() -> Iterator[None]:
    """Consoles that do not name work that is slow only because tests share the processors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.reporting.console.SECONDS_OF_SILENCE", 600.0)
        yield


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT on disk, with dropout."""
    # Imported only by the tests that need it: torch and transformers are slow to load.
    from tests.support.tiny_models import tiny_bert

    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 on disk, with dropout."""
    from tests.support.tiny_models import tiny_gpt2

    return tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def news_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 texts of different lengths with 3 labels."""
    from tests.support.tiny_models import text_csv

    return text_csv(tmp_path_factory.mktemp("data") / "news.csv")


@pytest.fixture(scope="session")
def held_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 more texts of the same distribution as `news_csv`."""
    from tests.support.tiny_models import text_csv

    return text_csv(tmp_path_factory.mktemp("data") / "held.csv", count=30, seed=1)


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, bert_folder: Path, news_csv: Path, held_csv: Path
) -> Path:
    """A run trained from the command line on `news_csv` and validated on `held_csv`."""
    from tests.support.command_line import finetune

    folder = tmp_path_factory.mktemp("runs") / "news"
    words = ["task=text-classification", f"model={bert_folder}", "method=full", "epochs=4"]
    words += [f"data.train={news_csv}", f"data.validation={held_csv}", "lr=3e-3", "batch_size=8"]
    words += ["precision=fp32"]  # bf16, the default on some CPUs, depends on the batch size
    code = finetune("train", *words, f"output={folder}")
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """A run trained from Python with method=lora on 24 rows."""
    import finetune
    from tests.support.tiny_models import text_rows

    folder = tmp_path_factory.mktemp("runs") / "lora"
    finetune.train(
        "text-classification",
        data=text_rows(24),
        model=str(bert_folder),
        method="lora",
        epochs=1,
        log_every=1,
        batch_size=8,
        output=str(folder),
    )
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama on disk."""
    from tests.support.tiny_models import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 on disk."""
    from tests.support.tiny_models import tiny_t5

    return tiny_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(scope="session")
def bart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BART on disk."""
    from tests.support.tiny_models import tiny_bart

    return tiny_bart(tmp_path_factory.mktemp("models") / "bart")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips the test if none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
