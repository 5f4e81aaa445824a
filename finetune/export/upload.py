"""Contents of an upload: the files that a run wrote, and the card made for the repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError, HubError
from finetune.export.card_metadata import LICENSE_KEYS
from finetune.export.model_card import remove_adapter_section, rename_base, rename_card
from finetune.inference.model_loading import read_task
from finetune.io.integrity import check_files, check_no_nan, read_json
from finetune.io.manifest import (
    CARD,
    MANIFEST,
    Facts,
    check_contents,
    check_links,
    note_foreign_files,
    read_manifest,
)
from finetune.task_parts.views import BASE

WHAT = ("merged", "adapter", "both")
ADAPTER, ADAPTER_CONFIG = "adapter", "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


@dataclass(frozen=True)
class CardEdits:
    """Changes of a card for the repository that it is pushed to; None: as the run wrote it."""

    repository: str
    license: str | None = None
    base_model: str | None = None

    def apply(self, path: Path, base: str) -> str:
        """Return the text of a card with these changes; `base` is its name of the base model."""
        from huggingface_hub import ModelCard
        from yaml import YAMLError

        keys: dict[str, str | None] = {}
        if self.license is not None:
            # The other two keys are the name and the URL of an `other` license.
            keys = {} if self.license == "other" else dict.fromkeys(LICENSE_KEYS[1:])
            keys |= {"license": self.license}
        try:
            text = rename_card(path.read_text(encoding="utf-8"), self.repository)
            if self.base_model is not None:
                text = rename_base(text, base, self.base_model)
                relation = "adapter" if path.parent.name == ADAPTER else "finetune"
                keys |= {"base_model": self.base_model, "base_model_relation": relation}
            if not keys:
                return text
            card = ModelCard(text)
        except (ValueError, YAMLError) as error:
            raise HubError(f"{path}: invalid model card ({error}); fix its YAML header") from error
        for key, value in keys.items():
            setattr(card.data, key, value)
        return str(card)


@dataclass(frozen=True)
class Upload:
    """Contents of an upload: unchanged files of a folder, and small files made for the repository.

    Attributes:
        files: names of the unchanged files in `folder`.
        written: {name: content} of the files made for the repository.
        notes: sentences on files that are not uploaded, and on edited ones.
    """

    folder: Path
    files: list[str]
    written: dict[str, bytes]
    notes: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """{name: size in bytes} of all files."""
        kept = {name: (self.folder / name).stat().st_size for name in self.files}
        return dict(
            sorted((kept | {name: len(text) for name, text in self.written.items()}).items())
        )


def collect_upload(final: Path, what: str, edits: CardEdits) -> Upload:
    """Collect the files of a final model that `what` selects.

    Raises ConfigError, HubError, or ModelError for a file that is not as the run wrote it.
    """
    _check_what(final, what)
    folder = final / ADAPTER if what == "adapter" else final
    saved = read_task(final)
    known = read_manifest(final, saved.get("files", []))
    files = _select(known, what)
    if CARD not in files or not (folder / CARD).exists():
        raise HubError(
            f"{folder / CARD}: is missing, and a model is not pushed without a model card; "
            "write one there, or train again"
        )
    check_links(folder, files)
    check_files(folder, {*files, *(ADAPTER_FILES if what == "adapter" else ("task.json",))})
    edited = check_contents(folder, files)
    for name in (name for name, facts in files.items() if not facts):  # not as a run checked it
        if name.endswith(".safetensors"):
            check_no_nan(folder / name)
    notes = [note_foreign_files(final, known.keys())]
    notes += [f"{name} was edited after the run: the edited text is pushed" for name in edited]
    written, base = dict[str, bytes](), str(saved.get("base", ""))
    for name in sorted(files):
        if Path(name).name == CARD:
            card = edits.apply(folder / name, base)
            written[name] = (remove_adapter_section(card) if what == "merged" else card).encode()
        elif Path(name).name == ADAPTER_CONFIG:
            config = read_json(folder / name)
            notes.append("" if edits.base_model else _hint_base(config, base))
            written[name] = _adapter_config(config, edits.base_model or base).encode()
    if all(files.values()) and what != "adapter":
        written[MANIFEST] = _manifest(files, written)
    return Upload(folder, sorted(files.keys() - written.keys()), written, list(filter(None, notes)))


def _check_what(final: Path, what: str) -> None:
    """Raise ConfigError or HubError if a model does not have what is to be pushed."""
    if what not in WHAT:
        raise ConfigError(f"--what: unknown value {what!r}; choose from: {', '.join(WHAT)}")
    if final.is_symlink():
        raise HubError(f"{final}: is a symbolic link; give the folder {final.resolve()} itself")
    adapter = final / ADAPTER
    if what != "merged" and not adapter.is_dir():
        raise HubError(
            f"{final}: contains no adapter (the method has no separate adapter, or this is a copy "
            "of the merged network alone); push it with --what merged"
        )
    if what != "merged" and not (adapter / CARD).is_file():
        raise HubError(
            f"{final}: peft alone cannot load this adapter, because it does not support this "
            "network or head; push it with --what merged (or, for a classifier, train with "
            "task.head=native)"
        )


def _select(files: Mapping[str, Facts], what: str) -> dict[str, Facts]:
    """Select the files that are pushed, with their names in the pushed folder."""
    inside = f"{ADAPTER}/"
    if what == "adapter":
        return {
            name.removeprefix(inside): facts
            for name, facts in files.items()
            if name.startswith(inside)
        }
    return {
        name: facts
        for name, facts in files.items()
        if what == "both" or not name.startswith(inside)
    }


def _manifest(files: Mapping[str, Facts], written: Mapping[str, bytes]) -> bytes:
    """Return the manifest of the pushed files, some of which are written for the repository."""
    facts = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in written.items()
    }
    return json.dumps({"files": dict(sorted({**files, **facts}.items()))}, indent=1).encode()


def _hint_base(config: Mapping[str, Any], base: str) -> str:
    """Return a hint if the base model of an adapter is a folder of this machine, else ""."""
    local = str(config.get("base_model_name_or_path", ""))
    if base and base != Path(local).name and "://" not in base:
        return ""
    return (
        f"{ADAPTER_CONFIG} names the base model {base or BASE!r}, which was loaded from this "
        "machine, so others cannot load the adapter; give its hub id with --base-model OWNER/NAME "
        "(when training, output.base_model)"
    )


def _adapter_config(config: Mapping[str, Any], base: str) -> str:
    """Return the adapter's config with a base model name that is valid on other machines."""
    named = {**config, "base_model_name_or_path": base or BASE}
    return json.dumps(named, indent=2, sort_keys=True) + "\n"
