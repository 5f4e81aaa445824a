"""A finished run to a model hub: what is in final/, and nothing else.

The endpoint is that of huggingface_hub (HF_ENDPOINT), and so is the token, which this kit never
reads.
"""

from __future__ import annotations

from pathlib import Path

from finetune.console import Console
from finetune.errors import ConfigError, HubError
from finetune.prediction import model_folder

WHAT = ("merged", "adapter", "both")


def push(
    run: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    what: str = "merged",
) -> str:
    """Upload the final model of a run to `repo_id`; the address of the model there.

    `what` is the merged network, the LoRA adapter, or both. Pushing again after an interruption
    goes on, since files that the hub holds are not sent again. Raises HubError; the run is never
    changed.
    """
    from huggingface_hub import HfApi

    if what not in WHAT:
        raise ConfigError(f"--what: {what!r} cannot be pushed; choose from: {', '.join(WHAT)}")
    final = model_folder(run)
    folder = final / "adapter" if what == "adapter" else final
    if what != "merged" and not (final / "adapter").is_dir():
        raise HubError(
            f"{final}: holds no adapter (the method was not lora); push it with --what merged"
        )
    ignored = ["adapter/*"] if what == "merged" else []
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (what != "merged" or path.parent.name != "adapter")
    ]
    console = Console()
    if dry_run:
        for path in files:
            console.print(f"{path.stat().st_size:>12,} bytes  {path.relative_to(folder)}")
        console.print(f"\n{(folder / 'README.md').read_text(encoding='utf-8')}")
        return ""
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            ignore_patterns=ignored,
            commit_message="Upload a model fine-tuned with finetune-kit",
        )
    except Exception as error:  # of the client and of whatever library it speaks HTTP with
        said = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise HubError(
            f"{repo_id}: the hub at {api.endpoint} did not take the model: {said}. "
            "The run is unharmed; push again to go on, after `hf auth login` if the token is "
            "missing or too weak"
        ) from error
    address = f"{api.endpoint}/{repo_id}"
    console.print(f"pushed {len(files)} files to {address}")
    return address
