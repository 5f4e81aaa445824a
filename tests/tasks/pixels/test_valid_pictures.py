"""Pictures are decoded once, and again where their content or what reads them has changed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.image import image_reading
from tasks.image.image_reading import find_fault
from tasks.pixels import valid_pictures as module
from tasks.pixels.valid_pictures import SIZE, ValidPictures, valid_pictures

WAY = 10_000, 3, True


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    _start_process()
    yield
    _start_process()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets every image which is decoded to find a fault."""
    seen, fault = list[Any](), image_reading._fault

    def record(value: Any, *way: Any) -> str | None:
        seen.append(value)
        return fault(value, *way)

    monkeypatch.setattr(image_reading, "_fault", record)
    return seen


def _start_process() -> None:
    """Forget what a new process does not know."""
    module._read.cache_clear()
    image_reading._fault_of_file.cache_clear()
    image_reading._digest_of_file.cache_clear()


def _save(path: Path, shade: int = 0, side: int = 8) -> str:
    Image.fromarray(np.full((side, side, 3), shade, np.uint8)).save(path)
    return str(path)


def _find_in_new_process(*values: Any, way: tuple[int, int, bool] = WAY) -> list[str | None]:
    _start_process()
    faults = [find_fault(value, *way) for value in values]
    valid_pictures(*way).save()
    return faults


def test_a_valid_picture_is_decoded_in_the_first_process_only(
    tmp_path: Path, decoded: list[Any]
) -> None:
    path = _save(tmp_path / "a.png")
    moved = _save(tmp_path / "b.png")
    assert (
        _find_in_new_process(path, {"bytes": Path(path).read_bytes(), "path": None}) == [None] * 2
    )
    assert len(decoded) == 2
    again = [path, moved, {"bytes": Path(path).read_bytes(), "path": "x"}, Path(path).read_bytes()]
    assert _find_in_new_process(*again) == [None] * 4
    assert len(decoded) == 2


def test_changed_content_is_decoded_again(tmp_path: Path, decoded: list[Any]) -> None:
    path = tmp_path / "a.png"
    _save(path, side=32)
    assert _find_in_new_process(str(path)) == [None]
    path.write_bytes(path.read_bytes()[:-30])
    (fault,) = _find_in_new_process(str(path))
    assert fault is not None
    assert "corrupt" in fault
    assert _find_in_new_process(str(path)) == [fault]  # faults are not kept
    assert len(decoded) == 3


def test_another_limit_or_suffix_is_another_way(tmp_path: Path) -> None:
    path = Path(_save(tmp_path / "a.png", side=32))
    assert _find_in_new_process(str(path)) == [None]
    (fault,) = _find_in_new_process(str(path), way=(100, 3, True))
    assert "pixels" in str(fault)
    renamed = tmp_path / "a.npy"
    path.rename(renamed)
    assert _find_in_new_process(str(renamed)) != [None]


@pytest.mark.parametrize("damage", ["cut", "garbage", "folder", "read-only"])
def test_a_damaged_store_costs_decoding_and_nothing_else(
    damage: str, tmp_path: Path, decoded: list[Any]
) -> None:
    paths = [_save(tmp_path / f"{shade}.png", shade) for shade in range(4)]
    assert _find_in_new_process(*paths) == [None] * 4
    (store,) = (tmp_path / "cache" / "pictures").iterdir()
    content = store.read_bytes()
    assert len(content) == 4 * SIZE
    if damage == "cut":
        store.write_bytes(content[: 2 * SIZE + 3])
    elif damage == "garbage":
        store.write_bytes(b"\xff" * 3 * SIZE)
    elif damage == "folder":
        store.unlink()
        store.mkdir()
    else:
        store.unlink()
        store.parent.rmdir()
        store.parent.write_text("in the way")
    assert _find_in_new_process(*paths) == [None] * 4
    assert len(decoded) == {"cut": 6}.get(damage, 8)
    if damage in ("cut", "garbage"):
        assert store.stat().st_size % SIZE == 0
        assert _find_in_new_process(*paths) == [None] * 4
        assert len(decoded) == {"cut": 6}.get(damage, 8)


def test_two_processes_that_append_at_once_keep_the_pictures_of_both(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    one, two = ValidPictures(folder, WAY), ValidPictures(folder, WAY)
    one.add(b"a" * SIZE)
    two.add(b"b" * SIZE)
    two.save()
    one.save()
    both = ValidPictures(folder, WAY)
    assert b"a" * SIZE in both
    assert b"b" * SIZE in both
    assert len(both) == 2


def test_a_stored_picture_in_memory_is_decoded_once(decoded: list[Any]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    for _ in range(3):
        assert _find_in_new_process({"bytes": buffer.getvalue(), "path": None}) == [None]
    assert len(decoded) == 1
