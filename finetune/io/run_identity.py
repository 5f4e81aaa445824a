"""Identity of a run: its config and its rows, by which a command finds its own run again.

Without output.dir, the runs of different commands get folders of their own:
runs/<data>-<model>-<method>, then the same with -2, -3, ...
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from finetune.config.retired import stored_section
from finetune.config.schema import RunConfig
from finetune.config.text_files import validate_as
from finetune.config.yaml import flatten
from finetune.errors import CheckpointError, ConfigError, DataError, listed
from finetune.io.run_folder import RunFolder, has_other_files
from finetune.io.run_lock import RunLock, read_owner

_LISTED = 3


@dataclass(frozen=True)
class RunIdentity:
    """A config as given, and digests of the rows of its splits.

    Attributes:
        extend: True to train a finished run longer.
        were_set: the keys of the config that the user set; not part of the identity.
    """

    given: RunConfig
    digests: Mapping[str, str]
    extend: bool = False
    were_set: Collection[str] = ()

    @property
    def free_keys(self) -> set[str]:
        """Keys that may differ from those of a run to resume."""
        given = self.given
        return given.keys_of("free_keys") | (given.keys_of("length_keys") if self.extend else set())

    def digest(self) -> str:
        """Return a digest of what makes this the same run."""
        keys = {key: v for key, v in flatten(self.given).items() if key not in self.free_keys}
        text = json.dumps([keys, dict(self.digests)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def changed_keys(self, folder: RunFolder) -> dict[str, tuple[Any, Any]]:
        """Return {key: (new value, old value)} of the keys that differ from those of a run."""
        resolved = folder.read_config() if folder.has_config else {}
        return _changes(self.given, folder.read("run.json")["given"], resolved)

    def changed_splits(self, folder: RunFolder) -> list[str]:
        """Return the names of the splits whose rows differ from those of a run."""
        before = folder.read("run.json")["data"].items()
        return sorted({name for name, _ in self.digests.items() ^ before})

    def difference(self, folder: RunFolder) -> str:
        """Return in what the run in a folder differs from this one; "" if it is this one."""
        try:
            keys, splits = self.changed_keys(folder), self.changed_splits(folder)
        except (CheckpointError, KeyError, TypeError, AttributeError):
            return "a damaged run"
        if other := sorted(keys.keys() - self.free_keys):
            words = (f"{key}: {_show(keys[key][1])}, not {_show(keys[key][0])}" for key in other)
            return f"a run with other keys ({listed(words, _LISTED)})"
        return f"a run with other rows in {', '.join(splits)}" if splits else ""


def check_same_run(folder: RunFolder, identity: RunIdentity) -> RunConfig | None:
    """Return the config to resume with, if the run in the folder is the one that is asked for.

    None if that run was killed before it wrote a config. Raises CheckpointError or DataError that
    lists the differences and the remedies.
    """
    if not folder.has_config:
        return None
    given, free = identity.given, identity.free_keys
    changes = identity.changed_keys(folder)
    differences = {key: values for key, values in changes.items() if key not in free}
    is_longer = bool(given.keys_of("length_keys") & differences.keys())
    hint = "use --extend to train longer, or " if is_longer else ""
    replacing = "--fresh (in Python fresh=True) to replace this run"
    remedy = f"{hint}set output.dir=... for a second run, or use {replacing}"
    if differences:
        lines = [
            f"{folder.path}: contains a run with another config:",
            *(
                f"  {key}: {_show(before)} in the run, {_show(value)} now"
                for key, (value, before) in differences.items()
            ),
            f"  {remedy}",
        ]
        raise CheckpointError("\n".join(lines))
    if names := identity.changed_splits(folder):
        raise DataError(
            f"{folder.path}: the rows of {', '.join(names)} have changed since the run "
            f"started; {remedy}"
        )
    resolved = folder.read_config()
    named_now = {key: flatten(given)[key] for key in given.keys_of("code_keys")}
    for key, value in ({key: new for key, (new, _) in changes.items()} | named_now).items():
        section, _, leaf = key.partition(".")
        resolved[section][leaf] = value
    try:
        typed_sections = {
            name: stored_section(type(getattr(given, name)), resolved[name])
            for name in ("task", "method")
        }
        config: RunConfig = validate_as(RunConfig, resolved | typed_sections)
    except ValueError as error:
        path = folder.path / "config.yaml"
        raise CheckpointError(
            f"{path}: cannot be used ({error}); use --fresh to start over"
        ) from error
    return config


@contextmanager
def claim_folder(
    identity: RunIdentity, default: Path, *, is_main: bool
) -> Iterator[tuple[RunFolder, str]]:
    """Lock the folder of a run; yield it, with a note on the choice of a default folder.

    Without output.dir, it is the folder of the run with this identity, or else the first free one
    of default, default-2, ... The main process chooses, and holds the lock for all processes.
    Raises CheckpointError, in every process, if another training runs in the folder.
    """
    lock, refusal, note = None, None, ""
    if is_main:
        try:
            if identity.given.output.dir is None:
                lock, note = _lock_default(default, identity)
            else:
                lock = RunLock(Path(identity.given.output.dir), identity.digest()).acquire()
        except CheckpointError as error:
            refusal = str(error)
    chosen = "" if lock is None else str(lock.folder)
    refusal, chosen, note = broadcast_object_list([refusal, chosen, note])
    if refusal is not None:
        raise CheckpointError(refusal)
    try:
        yield RunFolder(Path(chosen)), note
    finally:
        if lock is not None:
            lock.release()


def _lock_default(base: Path, identity: RunIdentity) -> tuple[RunLock, str]:
    """Lock the folder of the same run or the first free one; also return a note if it is new."""
    own = identity.digest()
    while True:
        differences = {folder: identity.difference(RunFolder(folder)) for folder in _runs(base)}
        for folder, difference in differences.items():
            if not difference:
                return RunLock(folder, own).acquire(), ""
        lock = _lock_free(base, own, differences)
        if not RunFolder(lock.folder).exists:
            other = differences.get(base, "other files or another run")
            note = "" if lock.folder == base else f"{base} holds {other}, so this run has its own"
            return lock, note
        lock.release()  # another run began in the folder meanwhile


def _lock_free(base: Path, own: str, taken: Mapping[Path, str]) -> RunLock:
    """Lock the first folder that holds neither a run nor other files."""
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if folder in taken or folder.is_file() or has_other_files(folder):
            continue
        lock = RunLock(folder, own)
        try:
            return lock.acquire()
        except CheckpointError:
            if read_owner(folder).get("run", own) == own:
                raise  # the same run, or a folder that cannot be written
    raise AssertionError("there are infinitely many numbers")


def _runs(base: Path) -> list[Path]:
    """Return the folders base, base-2, ... that hold runs, in order."""
    siblings = base.parent.iterdir() if base.parent.is_dir() else ()
    numbered = re.compile(rf"{re.escape(base.name)}-([0-9]{{1,9}})")
    found = [(int(m[1]), path) for path in siblings if (m := numbered.fullmatch(path.name))]
    return [path for path in (base, *(path for _, path in sorted(found))) if RunFolder(path).exists]


def default_folder(config: RunConfig, data: Any = None) -> Path:
    """Return runs/<data>-<model>-<method>, from the last distinctive part of each name."""
    source = config.data.source or config.data.train
    if source is None and data is None:
        raise ConfigError(
            "data.source: no data given; add data=FILE, a folder, a hub dataset or pkg://..."
        )
    words = [
        short_name(source or "data"),
        short_name(config.model.name),
        short_name(config.method.name.rpartition(":")[2]),
    ]
    return Path("runs") / "-".join(words)


def short_name(reference: str) -> str:
    """Return the distinctive part of a reference: bbcnews of pkg://corpus/bbcnews/data."""
    vague = {"data", "model", "train", "dataset", "."}
    parts = [part for part in Path(reference.replace("://", "/")).parts if part.strip("/\\.")]
    distinctive = [part for part in parts if Path(part).stem not in vague]
    word = Path(distinctive[-1]).stem if distinctive else "data"
    return re.sub(r'[<>:"|?*\\/]+', "-", word)  # characters that Windows forbids in file names


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def _changes(
    given: RunConfig, before: Mapping[str, Any], resolved: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Any, Any]]:
    """Return {key: (new value, old value)} of changed keys.

    A key is changed if it differs both from its value as given to the run and from the value that
    was filled in.
    """
    changes = {}
    for key, value in flatten(given).items():
        section, _, leaf = key.partition(".")
        stored, filled = before.get(key), resolved.get(section, {}).get(leaf)
        if key not in before:  # added to the kit after the run
            stored = _default(getattr(given, section), leaf)
        if value != stored and (value is None or value != filled):
            changes[key] = value, stored if stored is not None else filled
    return changes


def _default(section: BaseModel, key: str) -> Any:
    """Return the default of a key as a JSON-able value; None if it is required or unknown."""
    fields = type(section).model_fields
    value = fields[key].get_default(call_default_factory=True) if key in fields else None
    return to_jsonable_python(None if value is PydanticUndefined else value)
