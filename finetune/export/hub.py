"""A finished run to a model hub: what is in final/, and nothing else.

The endpoint is that of huggingface_hub (HF_ENDPOINT), and so is the token, unless one is given; it
is never written or printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import ConfigError, HubError
from finetune.export.card_metadata import LICENCE
from finetune.export.licenses import check_licence
from finetune.export.model_card import renamed, without_adapter
from finetune.inference.model_loading import model_folder, read_task
from finetune.io.hub_retry import redact, with_patience
from finetune.io.integrity import check_files, read_json
from finetune.reporting.console import Console, format_count
from finetune.task_parts import BASE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WHAT = ("merged", "adapter", "both")
CARD, ADAPTER, ADAPTER_CONFIG = "README.md", "adapter", "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")
# Of an earlier model in the same repository, which a loader would mix with the new one.
REPLACED = ("*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG, f"{ADAPTER}/*")
_PLACE = re.compile(r"(?!.*(?:--|\.\.|\.git$))[A-Za-z0-9][\w.-]*/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
LOG_IN = "run `hf auth login`, or set HF_TOKEN, with a token that may write"


class NotPushed(HubError):  # noqa: N818 - the run itself went well
    """A run is finished, but its model could not be pushed."""

    exit_code = 3


@dataclass(frozen=True)
class Upload:
    """What goes to the hub: files of a folder as they are, and small ones written for the place."""

    folder: Path
    files: list[str]
    written: dict[str, bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """{name: bytes} of all of them."""
        kept = {name: (self.folder / name).stat().st_size for name in self.files}
        return dict(
            sorted((kept | {name: len(text) for name, text in self.written.items()}).items())
        )


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    what: str = "merged",
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the final model of a run to `repository`; the address of the model there.

    `what` is the merged network, its adapter, or both; `license` replaces that of the card.
    Pushing again after an interruption goes on, since files that the hub holds are not sent again.
    Raises HubError; the run is never changed.
    """
    check_repository(repository)
    if license is not None:
        check_licence("--license", license)
    upload = collect(model_folder(run), repository, what, license)
    console = Console()
    if dry_run:
        _show(upload, console)
        return ""
    return _send(upload, repository, private, token, console)


def push_finished(run: Path, repository: str) -> None:
    """Push the model of a run that has ended. Raises NotPushed, which says how to push later."""
    try:
        push(run, repository)
    except HubError as error:
        raise NotPushed(f"{error}\nLater: finetune push {run} {repository}") from None


def check_repository(repository: str) -> None:
    """Raise ConfigError for what can be no place on a hub."""
    if not _PLACE.fullmatch(repository):
        raise ConfigError(
            f"{redact(repository)!r} is no place on a hub; write OWNER/NAME, as in me/news, of "
            "letters, digits, '-', '_' and '.'"
        )


def note_missing_token(repository: str) -> str:
    """What should be done before the run ends, if no token is at hand."""
    from huggingface_hub import get_token

    missing = f"output.hub={repository}: no token is at hand; {LOG_IN}, before the run ends"
    return "" if get_token() else missing


def collect(final: Path, repository: str, what: str, license: str | None = None) -> Upload:
    """The files of a final model that `what` names. Raises ConfigError or HubError."""
    if what not in WHAT:
        raise ConfigError(f"--what: {what!r} cannot be pushed; choose from: {', '.join(WHAT)}")
    adapter = final / ADAPTER
    if what != "merged" and not adapter.is_dir():
        raise HubError(
            f"{final}: holds no adapter (the method keeps none apart, or this is a copy of the "
            "merged network alone); push it with --what merged"
        )
    if what != "merged" and not (adapter / CARD).is_file():
        raise HubError(
            f"{final}: peft alone cannot load this adapter, whose network or head is not one that "
            "it knows; push it with --what merged (a classifier can be trained with "
            "task.head=native)"
        )
    folder = adapter if what == "adapter" else final
    names = set(_files(folder))
    if what == "merged":
        names = {name for name in names if not name.startswith(f"{ADAPTER}/")}
    held = read_task(final)
    check_files(folder, names.union(ADAPTER_FILES if what == "adapter" else held.get("files", [])))
    if CARD not in names:
        raise HubError(
            f"{folder / CARD}: is missing, and without a card nobody knows what the model is; "
            "write one there, or train again"
        )
    written: dict[str, bytes] = {}
    for name in sorted(names):
        if Path(name).name == CARD:
            card = _card(folder / name, repository, license)
            written[name] = (without_adapter(card) if what == "merged" else card).encode()
        elif Path(name).name == ADAPTER_CONFIG:
            written[name] = _adapter_config(folder / name, held.get("base", "")).encode()
    return Upload(folder, sorted(names - written.keys()), written)


def _files(folder: Path) -> Iterator[str]:
    """The files of a folder; hidden ones are of other programs, caches of a download among them."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            yield inside.as_posix()


def _card(path: Path, repository: str, license: str | None) -> str:
    """The card as it reads at its place on the hub."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        text = renamed(path.read_text(encoding="utf-8"), repository)
        if license is None:
            return text
        card = ModelCard(text)
    except (ValueError, YAMLError) as error:
        raise HubError(f"{path}: is no card of a model ({error}); mend its head") from error
    # The other two are the name and the address of an `other` licence.
    told = {"license": license} | ({} if license == "other" else dict.fromkeys(LICENCE[1:]))
    for key, value in told.items():
        setattr(card.data, key, value)
    return str(card)


def _adapter_config(path: Path, base: str) -> str:
    """The adapter's config with a base that means something elsewhere."""
    config = read_json(path)
    config["base_model_name_or_path"] = base or BASE
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _show(upload: Upload, console: Console) -> None:
    sizes = upload.sizes
    for name, size in sizes.items():
        console.print(f"{size:>14,} bytes  {name}")
    console.print(f"{sum(sizes.values()):>14,} bytes  in {format_count(len(sizes), 'file')}\n")
    console.print(upload.written[CARD].decode())


def _send(
    upload: Upload, repository: str, private: bool, token: str | None, console: Console
) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        with_patience(
            lambda: api.create_repo(repository, private=private, exist_ok=True), console.print
        )
        with_patience(lambda: _send_files(api, upload, repository), console.print)
        with_patience(lambda: _send_card(api, upload, repository), console.print)
        is_private = with_patience(lambda: _check(api, upload, repository), console.print)
    except HubError:
        raise
    except Exception as error:  # of the client and of whatever library it speaks HTTP with
        said = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        # A hub may echo what it was sent, so the exceptions behind this one are not shown.
        raise HubError(
            redact(
                f"{repository}: the hub at {api.endpoint} did not take the model: {said}. "
                f"The run is unharmed; push again to go on. If the hub refuses you, {LOG_IN}",
                token,
            )
        ) from None
    address = f"{api.endpoint}/{repository}"
    seen = "private" if is_private else "public"
    console.print(f"pushed {format_count(len(upload.sizes), 'file')} to {address} ({seen})")
    if is_private != private:
        asked = "private" if private else "public"
        console.print(f"it was there before, so it is not made {asked}; the hub's settings do that")
    return address


def _send_files(api: HfApi, upload: Upload, repository: str) -> None:
    api.upload_folder(
        repo_id=repository,
        folder_path=upload.folder,
        allow_patterns=upload.files,
        commit_message="A model fine-tuned with finetune-kit",
    )


def _send_card(api: HfApi, upload: Upload, repository: str) -> None:
    """Last, so that what has a card is whole; with it go the remains of an earlier model."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    here = api.list_repo_files(repository)
    stale = [
        name
        for name in here
        if name not in upload.sizes and any(fnmatch(name, pattern) for pattern in REPLACED)
    ]
    added = [CommitOperationAdd(name, content) for name, content in upload.written.items()]
    api.create_commit(
        repository,
        [*(CommitOperationDelete(name) for name in stale), *added],
        commit_message="What was trained on what, and what was measured",
    )


def _check(api: HfApi, upload: Upload, repository: str) -> bool:
    """Whether the repository is private. Raises HubError if a file did not arrive."""
    info = api.model_info(repository)
    missing = upload.sizes.keys() - {file.rfilename for file in info.siblings or []}
    if missing:
        raise HubError(
            f"{repository}: the hub took the model but does not show {', '.join(sorted(missing))}; "
            "push again"
        )
    return bool(info.private)
