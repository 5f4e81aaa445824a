"""Manifest of a final model: every file that the run wrote, with its size and SHA-256, and the
SHA-256 of the learned state.

Nothing else in the folder belongs to the model. A model of an earlier version has no manifest; its
task.json lists the files without digests.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from finetune.errors import ModelError, listed
from finetune.io.files import file_facts, has_facts, write_json
from finetune.io.integrity import read_json, restoring

MANIFEST, CARD = "manifest.json", "README.md"
EARLIER_FILES = (
    "task.json",
    CARD,
    f"adapter/{CARD}",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)
# Files of tokenizers and processors, as transformers names them.
PROCESSOR_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("vocab.*", "merges.txt", "*.model", "*.spm", "*preprocessor_config.json"),
    "processor_config.json",
)
LOADED_FILES = (*PROCESSOR_FILES, "*.json", "*.safetensors")
"""Files that a library may read when it loads a model."""
_HASHED = 64 * 2**20  # bytes; larger files are compared by their size
_LISTED = 5

Facts = Mapping[str, Any]
"""{"bytes": size, "sha256": hexadecimal digest} of a file."""


def write_manifest(folder: Path, names: Collection[str] | None = None) -> None:
    """Write the manifest of a folder that was just written: of all files, or of those named."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    files = {n: file_facts(path) for n, path in found.items() if names is None or n in names}
    state = _state_digest(folder)
    write_json(folder / MANIFEST, {"files": files} | ({"state": state} if state else {}))


def check_state(folder: Path) -> None:
    """Raise ModelError if the state in task.json is not the one that was learned with the weights.

    Its labels name the outputs of a network whose own files have no names for them.
    """
    if not (folder / MANIFEST).is_file():
        return
    manifest = read_json(folder / MANIFEST)
    learned = manifest.get("state") if isinstance(manifest, dict) else None
    if learned is not None and learned != _state_digest(folder):
        raise ModelError(
            f"{folder / 'task.json'}: the state, which has the labels in the order of the outputs, "
            f"is not the one that was learned; {restoring(folder)}. If you renamed a label, remove "
            f'"state" from {MANIFEST}'
        )


def _state_digest(folder: Path) -> str:
    """Return the SHA-256 of the learned state in task.json; "" if there is none."""
    try:
        state = read_json(folder / "task.json")["state"]
    except (ModelError, TypeError, KeyError):
        return ""
    return sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, earlier: Collection[str]) -> dict[str, Facts]:
    """Return {name: facts} of the files of a model, without facts if it has no manifest.

    `earlier` are the names that its task.json lists. Raises ModelError for a name that is not that
    of a file inside of the folder.
    """
    path = folder / MANIFEST
    if path.is_symlink() or path.is_file():
        check_links(folder, [MANIFEST])
        files = _read_files(folder)
    else:
        known = (name for name in EARLIER_FILES if (folder / name).exists())
        files = {name: {} for name in [*map(str, earlier), *known]}
    for name in files:
        if not _is_inside(name):
            raise ModelError(
                f"{path if path.is_file() else folder / 'task.json'}: lists {name!r}, which is not "
                "the name of a file in this folder; nothing outside of a model belongs to it"
            )
    return files


def note_changes(folder: Path) -> str:
    """Return a sentence on files of a model that are not as the run wrote them; "" if all are.

    Such a model loads, since its owner may edit it. Cards and adapters are not compared, nor is a
    model of an earlier version, which has no manifest.
    """
    if not (folder / MANIFEST).is_file():
        return ""
    known = _read_files(folder)
    changed = [
        f"{name} differs"
        for name, facts in known.items()
        if name != CARD and (folder / name).parent == folder and _differs(folder / name, facts)
    ]
    changed += [
        f"{path.name} was added"
        for path in sorted(folder.iterdir())
        if path.name not in {*known, MANIFEST} and any(map(path.match, LOADED_FILES))
    ]
    if not changed:
        return ""
    return (
        f"{folder}: not as the run wrote it ({listed(changed, _LISTED)}), so its predictions may "
        f"differ from those that were measured; unless you meant to, {restoring(folder)}"
    )


def _differs(path: Path, facts: Facts) -> bool:
    if not path.is_file():  # whoever needs it says that it is missing
        return False
    size = path.stat().st_size
    return size != facts["bytes"] or (size <= _HASHED and not has_facts(path, facts))


def _read_files(folder: Path) -> dict[str, Facts]:
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(map(_is_facts, files.values())):
        raise ModelError(
            f"{folder / MANIFEST}: does not list files with bytes and sha256; {restoring(folder)}"
        )
    return files


def check_links(folder: Path, names: Collection[str]) -> None:
    """Raise ModelError for a file that is a symbolic link, or is in a linked folder.

    A link may point to any file of this machine. Only the cache of the hub library consists of
    links, to files of the same repository.
    """
    cache = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None
    for name in sorted(names):
        path = folder / name
        parts = [path, *path.parents[: len(PurePosixPath(name).parts)]]
        link = next((part for part in parts if part.is_symlink()), None)
        if link is not None and not (cache and path.resolve().parent == cache.resolve()):
            raise ModelError(
                f"{link}: is a symbolic link to {link.readlink()}, and links are not uploaded; "
                "replace it with the file itself, if that belongs to the model"
            )


def check_contents(folder: Path, files: Mapping[str, Facts]) -> list[str]:
    """Compare files with their facts; return the names of cards that were edited.

    Only the text of a card may be edited. Raises ModelError for any other file that has changed.
    """
    edited = []
    for name, facts in files.items():
        path = folder / name
        if not facts or has_facts(path, facts):
            continue
        if PurePosixPath(name).name != CARD:
            raise ModelError(
                f"{path}: is damaged or was edited (its size or SHA-256 differs from "
                f"{folder / MANIFEST}); {restoring(folder)}"
            )
        edited.append(name)
    return edited


def note_foreign_files(folder: Path, known: Collection[str]) -> str:
    """Return a sentence that names the files in a folder that the run did not write; "" if none."""
    foreign = [name for name in sorted(visible_files(folder)) if name not in {*known, MANIFEST}]
    names = [f"{name} (a link)" if (folder / name).is_symlink() else name for name in foreign]
    if not names:
        return ""
    return f"not uploaded, since the run did not write them: {listed(names, _LISTED)}"


def visible_files(folder: Path) -> Iterator[str]:
    """Yield the files of a folder, except hidden ones: other programs' files, download caches."""
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if (path.is_file() or path.is_symlink()) and not is_hidden:
            yield relative.as_posix()


def _is_facts(facts: Any) -> bool:
    return isinstance(facts, dict) and {"bytes", "sha256"} <= facts.keys()


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_absolute = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    return bool(parts) and ".." not in parts and not is_absolute and name.isprintable()
