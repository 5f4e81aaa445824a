"""Push the final model of a run to a model hub: the files in final/, and nothing else.

The endpoint (HF_ENDPOINT) and the default token are those of huggingface_hub. The token is never
written or printed.
"""

from __future__ import annotations

import glob
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.schema import OutputConfig
from finetune.errors import ConfigError, HubError, format_count, shell_word
from finetune.export.licenses import check_license
from finetune.export.upload import ADAPTER, ADAPTER_CONFIG, CardEdits, Upload, collect_upload
from finetune.inference.model_loading import model_folder
from finetune.io.hub_retry import redact, retry_hub_errors
from finetune.io.manifest import CARD, MANIFEST
from finetune.reporting.console import Console

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Files of an earlier model in the repository, which a loader would mix up with the new ones.
REPLACED = (
    "*.safetensors",
    "*.safetensors.index.json",
    ADAPTER_CONFIG,
    f"{ADAPTER}/*",
    MANIFEST,
)
_REPOSITORY_ID = re.compile(
    r"(?!.*(?:--|\.\.|\.git$))[A-Za-z0-9][\w.-]*/\w(?:[\w.-]{0,94}\w)?", re.ASCII
)
LOG_IN = "run `hf auth login` or set HF_TOKEN, with a token that has write access"


class NotPushed(HubError):  # noqa: N818 - the run itself succeeded
    """Failed push of a model whose run has finished."""

    exit_code = 3


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    what: str = "merged",
    license: str | None = None,
    base_model: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the final model of a run to `repository`; return its URL on the hub.

    `what` selects the merged network, its adapter, or both; `license` replaces the card's, and
    `base_model` is the hub id of the base model, for the card and the adapter. Only files that the
    run wrote are uploaded, unchanged but for cards. An interrupted push can be repeated: files that
    are already on the hub are not sent again. Raises HubError; the run is never changed.
    """
    check_repository(repository)
    if license is not None:
        check_license("--license", license)
    if base_model is not None:
        check_base_model("--base-model", base_model)
    edits = CardEdits(repository, license, base_model)
    console = Console()
    with console.during("checking the files"):
        upload = collect_upload(model_folder(run), what, edits)
    for note in upload.notes:
        console.print(note)
    if dry_run:
        _print_upload(upload, console)
        return ""
    return _send(upload, repository, private, token, console)


def push_finished(run: Path, repository: str) -> None:
    """Push the model of a finished run. Raises NotPushed with the command to push it later."""
    try:
        push(run, repository)
    except HubError as error:
        later = f"finetune push {shell_word(run)} {repository}"
        raise NotPushed(f"{error}\nTo push later: {later}") from None


def check_repository(repository: str, place: str = "") -> None:
    """Raise ConfigError, which begins with `place`, for an invalid repository id."""
    if not _REPOSITORY_ID.fullmatch(repository):
        raise ConfigError(
            f"{place}{redact(repository)!r} is not a valid repository id; write OWNER/NAME, such "
            "as me/news, with letters, digits, '-', '_' and '.'"
        )


def check_hub_keys(output: OutputConfig) -> None:
    """Raise ConfigError for the keys of a config that a hub would not accept."""
    if output.hub is not None:
        check_repository(output.hub, "output.hub: ")
    if output.base_model is not None:
        check_base_model("output.base_model", output.base_model)
    if output.license is not None:
        check_license("output.license", output.license)


def check_base_model(key: str, name: str) -> None:
    """Raise ConfigError if the `key` names a base model by something other than its hub id."""
    if not _REPOSITORY_ID.fullmatch(name if "/" in name else f"owner/{name}"):  # such as gpt2
        raise ConfigError(f"{key}: {redact(name)!r} is not the id of a model on a hub")


def note_missing_token(repository: str) -> str:
    """Return a note that asks to log in before the run ends; "" if a token is available."""
    from huggingface_hub import get_token

    note = f"output.hub={repository}: no hub token found; before the run ends, {LOG_IN}"
    return "" if get_token() else note


def _print_upload(upload: Upload, console: Console) -> None:
    sizes = upload.sizes
    for name, size in sizes.items():
        console.print(f"{size:>14,} bytes  {name}")
    console.print(f"{sum(sizes.values()):>14,} bytes  in {format_count(len(sizes), 'file')}\n")
    console.print(upload.written[CARD].decode())
    console.print("dry run: nothing was uploaded")


def _send(
    upload: Upload, repository: str, private: bool, token: str | None, console: Console
) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        retry_hub_errors(
            lambda: api.create_repo(repository, private=private, exist_ok=True), console.print
        )
        size = sum(upload.sizes.values()) / 2**20
        with console.during(
            f"uploading {format_count(len(upload.sizes), 'file')}, {size:,.1f} MiB"
        ):
            retry_hub_errors(lambda: _send_files(api, upload, repository), console.print)
        retry_hub_errors(lambda: _send_card(api, upload, repository), console.print)
        is_private = retry_hub_errors(
            lambda: _check_arrival(api, upload, repository), console.print
        )
    except HubError:
        raise
    except Exception as error:  # of huggingface_hub or of its HTTP library
        message = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        # A hub may echo the request with its token, so chained exceptions are not shown.
        raise HubError(
            redact(
                f"{repository}: upload to the hub at {api.endpoint} failed: {message}. "
                f"The run is intact; push again to continue. If access was denied, {LOG_IN}",
                token,
            )
        ) from None
    address = f"{api.endpoint}/{repository}"
    visibility = "private" if is_private else "public"
    console.print(f"pushed {format_count(len(upload.sizes), 'file')} to {address} ({visibility})")
    if is_private != private:
        requested = "private" if private else "public"
        console.print(
            f"the repository already existed and was not made {requested}; change its visibility "
            "in the hub's settings"
        )
    return address


def _send_files(api: HfApi, upload: Upload, repository: str) -> None:
    api.upload_folder(
        repo_id=repository,
        folder_path=upload.folder,
        allow_patterns=list(map(glob.escape, upload.files)),
        commit_message="Upload model fine-tuned with finetune-kit",
    )


def _send_card(api: HfApi, upload: Upload, repository: str) -> None:
    """Upload the card and delete leftovers of an earlier model.

    This comes last, so that a repository with a card is complete.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    stale = [
        name
        for name in api.list_repo_files(repository)
        if name not in upload.sizes and any(fnmatch(name, pattern) for pattern in REPLACED)
    ]
    added = [CommitOperationAdd(name, content) for name, content in upload.written.items()]
    api.create_commit(
        repository,
        [*(CommitOperationDelete(name) for name in stale), *added],
        commit_message="Upload model card",
    )


def _check_arrival(api: HfApi, upload: Upload, repository: str) -> bool:
    """Return True if the repository is private. Raises HubError if a file did not arrive."""
    info = api.model_info(repository)
    missing = upload.sizes.keys() - {file.rfilename for file in info.siblings or []}
    if missing:
        raise HubError(
            f"{repository}: the upload succeeded, but the hub does not list "
            f"{', '.join(sorted(missing))}; push again"
        )
    return bool(info.private)
