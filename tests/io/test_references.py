"""Resolution of references, without importing or downloading anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from finetune.errors import DataError, ModelError
from finetune.io.references import locate, resolve_model


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that raises an error on import."""
    folder = tmp_path / "site" / "shelf_of_data"
    (folder / "news").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('was imported')")
    (folder / "news" / "train.csv").write_text("text,label\na,b\n")
    (folder.parent / "lonely_module.py").write_text("")
    (folder.parent / "secret.txt").write_text("secret")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_locate_finds_files_of_a_package_without_importing_it(package: Path) -> None:
    assert locate("pkg://shelf_of_data/news/train.csv") == package / "news" / "train.csv"
    assert locate("pkg://shelf_of_data/news/") == package / "news"
    assert locate("pkg://shelf_of_data") == package
    assert "shelf_of_data" not in sys.modules


@pytest.mark.parametrize(
    "path", ["../secret.txt", "news/../../secret.txt", "..\\secret.txt", "C:/secret.txt", ".."]
)
def test_locate_rejects_paths_outside_the_package(package: Path, path: str) -> None:
    with pytest.raises(DataError, match="points outside the package"):
        locate(f"pkg://shelf_of_data/{path}")


def test_locate_rejects_absolute_paths_after_the_package(package: Path) -> None:
    with pytest.raises(DataError, match="no such file in the package"):
        locate(f"pkg://shelf_of_data/{package.parent / 'secret.txt'}")


def test_locate_suggests_names_in_the_package(package: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'news'"):
        locate("pkg://shelf_of_data/new")
    with pytest.raises(DataError, match="no 'deep'.*choose from: train.csv"):
        locate("pkg://shelf_of_data/news/deep/deeper/x.csv")


@pytest.mark.parametrize(
    ("reference", "remedy"),
    [
        ("pkg://no_such_package/x", "pip install no-such-package"),
        ("pkg://shelf_of_data.news/x", "write pkg://shelf_of_data/news"),
        ("pkg://lonely_module/x", "single module"),
        ("pkg:///x", "the package name is missing"),
        ("pkg://pydantic-core/x", "write pkg://pydantic_core/"),
    ],
)
def test_locate_explains_how_to_correct_a_package_name(
    package: Path, reference: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=remedy):
        locate(reference)


def test_locate_prefers_an_existing_path_to_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("imdb") is None
    (tmp_path / "imdb").mkdir()
    assert locate("imdb") == Path("imdb")


@pytest.mark.parametrize(
    "reference", ["imdb", "owner/name", "owner/model.v2", "timm/resnet18.a1_in1k"]
)
def test_locate_returns_none_for_hub_ids(reference: str) -> None:
    assert locate(reference) is None


@pytest.mark.parametrize(
    "reference",
    ["news.csv", "./news", "../news", "/no/such/news", "~/no-such-news", "a/b/c", "C:\\news",
     "C:/news", "data\\news", "News.JSONL", "folder/"],
)  # fmt: skip
def test_locate_rejects_a_missing_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        locate(reference)


def test_locate_suggests_the_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("")
    with pytest.raises(DataError, match="did you mean 'news.csv'"):
        locate(str(tmp_path / "new.csv"))


@pytest.mark.parametrize(
    ("reference", "remedy"),
    [
        ("https://example.com/news.csv", "download it"),
        ("https://huggingface.co/datasets/owner/name/tree/main", "give the hub id 'owner/name'"),
        ("hf://datasets/owner/name", "give the hub id 'owner/name'"),
        ("https://huggingface.co/owner/model", "give the hub id 'owner/model'"),
        ("file:///tmp/x.csv", "without file://"),
        ("", "is empty"),
    ],
)
def test_locate_rejects_urls_with_a_remedy(reference: str, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        locate(reference)


def test_resolve_model_returns_a_path_or_the_hub_id(package: Path) -> None:
    assert resolve_model("pkg://shelf_of_data/news") == str(package / "news")
    assert resolve_model("bert-base-uncased") == "bert-base-uncased"
    with pytest.raises(ModelError, match="model.gguf"):
        resolve_model("model.gguf")
