"""Resolution of model and data references: a path, pkg://<package>/<path>, or a hub id.

Nothing is downloaded, imported or written here.
"""

from __future__ import annotations

import glob
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from finetune.config.formats import FILE_ENDINGS
from finetune.config.model_folders import weights_folder
from finetune.config.schema import ModelConfig
from finetune.config.text_files import is_special, is_url
from finetune.errors import (
    ConfigError,
    DataError,
    FinetuneError,
    ModelError,
    closest,
    listed,
    nearest,
)

PACKAGE_SCHEME = "pkg://"
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_HUB_URL = re.compile(r"^(?:https?://huggingface\.co|hf:/)/(?:datasets/|models/)?([^/?#]+/[^/?#]+)")
_PATH_START = re.compile(r"^(?:\.{1,2}(?:[/\\]|$)|/|~|[A-Za-z]:[/\\]|\\)")
_LISTED = 12
_LONGEST = 100
_RUNS = Path("runs")


def locate(reference: str, error: type[FinetuneError] = DataError) -> Path | None:
    """Return the file or folder that a reference names, or None for a hub id.

    Raises `error` for a path or package that does not exist, and for URLs.
    """
    if not reference.strip():
        raise error(f"{reference!r} is empty; give a path, a hub id or pkg://<package>/<path>")
    if reference.startswith(PACKAGE_SCHEME):
        return _in_package(reference, error)
    if _URL.match(reference):
        raise error(f"{reference}: URLs are not downloaded; {_instead_of_url(reference)}")
    path = Path(reference).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError) as fault:  # such as a name of more than 255 bytes
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"{reference[:_LONGEST]}: not a path: {reason}") from fault
    if is_special(path):
        raise error(f"{reference}: this is a pipe or a device; save its content to a file")
    if exists:
        return path
    if _must_be_path(reference):
        raise error(f"{reference}: no such file or folder; {_describe_missing(path)}")
    return None


def check_run_exists(reference: str | Path) -> None:
    """Raise ModelError for a missing folder among runs, which is not a hub id."""
    path = Path(reference).expanduser()
    is_among_runs = path.parent == _RUNS or (path.parent != Path() and _runs_in(path.parent))
    if not path.exists() and is_among_runs:
        raise ModelError(f"{reference}: no such folder; {suggest_run(reference)}")


def suggest_run(reference: str | Path) -> str:
    """Return "did you mean ...?" for a misspelled run folder, or the runs beside it.

    Runs are searched beside it and in runs/.
    """
    path = Path(reference).expanduser()
    for folder in dict.fromkeys((path.parent, _RUNS)):
        if near := closest(path.name, _runs_in(folder)):
            return f"did you mean {str(folder / near)!r}?"
    if beside := list_runs(path.parent):
        return f"choose from: {beside}"
    return "give a run folder, its final/, or a hub id OWNER/NAME"


def suggest_beside(reference: str) -> str:
    """Return " (did you mean ...?)" for a missing path if one beside it has a similar name."""
    path = Path(reference).expanduser()
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    near = closest(path.name, [each.name for each in beside])
    return f" (did you mean {str(path.with_name(near))!r}?)" if near else ""


def list_runs(folder: Path) -> str:
    """Return the names of the runs in a folder, for a message; "" if there is none."""
    return listed(sorted(_runs_in(folder)), _LISTED)


def _runs_in(folder: Path) -> list[str]:
    """Return the names of the runs and final models in a folder."""
    marks = ("run.json", "task.json", "final/task.json")
    children = list(folder.iterdir()) if folder.is_dir() else []
    return [each.name for each in children if any((each / mark).is_file() for mark in marks)]


def is_pattern(reference: str) -> bool:
    """True for a glob pattern such as photos/*.jpg, unless it is a file: news[1].csv may exist."""
    return glob.has_magic(reference) and not Path(reference).expanduser().exists()


def resolve_model(name: str) -> str:
    """Return the name to pass to `from_pretrained`: a local path, or the hub id unchanged.

    Raises ModelError for a folder from which it is not clear what to take.
    """
    path = locate(name, ModelError)
    return name if path is None else str(weights_folder(path))


def check_origin(model: ModelConfig) -> None:
    """Raise ModelError for keys without effect on a network, and for folders without weights.

    A network on this machine has no revisions; without `weights` there is nothing to match.
    """
    faults = {}
    if (place := locate(model.name, ModelError)) is not None:
        weights_folder(place)  # raises if it holds several networks, or none
        faults["revision"] = "is on this machine, where it has no other revisions"
    if model.weights is None:
        faults["match"] = "is loaded without model.weights, so there is nothing to match"
    elif locate(model.weights, ModelError) is None:
        missing = _describe_missing(Path(model.weights))
        raise ModelError(f"model.weights: {model.weights}: no such file; {missing}")
    for key, fault in faults.items():
        value = getattr(model, key)
        if value != ModelConfig.model_fields[key].default:
            raise ModelError(f"model.{key}={value}: {model.name} {fault}; remove the key")


def _must_be_path(reference: str) -> bool:
    """True if the reference cannot be a hub id, which is `name` or `owner/name`."""
    return bool(
        _PATH_START.match(reference)
        or "\\" in reference
        or reference.count("/") > 1
        or reference.endswith("/")
        or Path(reference).suffix.lower() in FILE_ENDINGS
    )


def _in_package(reference: str, error: type[FinetuneError]) -> Path:
    package, _, inside = reference.removeprefix(PACKAGE_SCHEME).partition("/")
    parts = [part for part in inside.split("/") if part not in ("", ".")]
    # Checked by name and not by resolved path, since installers may link files to a store outside
    # of the package.
    if any(part == ".." or "\\" in part or ":" in part for part in parts):
        raise error(
            f"{reference}: points outside the package; name a path below {PACKAGE_SCHEME}{package}/"
        )
    roots = _package_roots(reference, package, error)
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    missing = roots[0].joinpath(*parts)
    raise error(f"{reference}: no such file in the package {package}; {_describe_missing(missing)}")


def _package_roots(reference: str, package: str, error: type[FinetuneError]) -> list[Path]:
    """Return the folders of an installed package without importing it."""
    if package.isidentifier():
        try:
            # Top-level names only: find_spec("a.b") would import a.
            spec = find_spec(package)
        except ValueError:  # a module created by hand, without a spec
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return [Path(root) for root in spec.submodule_search_locations]
        if spec is not None:
            raise error(
                f"{reference}: {package} is a single module without data files; name a package"
            )
    raise error(f"{reference}: {_how_to_install(package)}")


def _how_to_install(package: str) -> str:
    if not package:
        return f"the package name is missing; write {PACKAGE_SCHEME}<package>/<path>"
    owners = metadata.packages_distributions()
    # A common mistake is to write the name of the distribution and not that of the import.
    named = sorted(
        name for name, dists in owners.items() if _normalized(package) in map(_normalized, dists)
    )
    if named:
        return f"{package} installs {', '.join(named)}; write {PACKAGE_SCHEME}{named[0]}/..."
    if "." in package:
        return (
            f"dots do not separate folders; write {PACKAGE_SCHEME}{package.replace('.', '/')}/..."
        )
    return f"the package {package!r} is not installed; run: pip install {_normalized(package)}"


def _normalized(name: str) -> str:
    """Normalize the name of a distribution as package indexes do."""
    return re.sub(r"[-_.]+", "-", name).lower()


def refuse_url(output: Path, option: str = "-o") -> None:
    """Raise ConfigError for an output that is a URL, which would become a local folder `s3:`."""
    if is_url(output.as_posix()):
        raise ConfigError(
            f"{option} {output.as_posix().replace(':/', '://', 1)}: is a URL; name a place on this "
            "machine, or in a mounted store"
        )


def _instead_of_url(reference: str) -> str:
    on_hub = _HUB_URL.match(reference)
    if on_hub:
        return f"give the hub id {on_hub[1]!r}"
    if reference.lower().startswith("file://"):
        return "give the path without file://"
    return "download it and give the path"


def _describe_missing(path: Path) -> str:
    """Describe the first missing part of a path, with the nearest names in its folder."""
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    if not path.parent.is_dir():
        return f"{path} does not exist"
    names = [
        child.name for child in path.parent.iterdir() if not child.name.startswith((".", "__"))
    ]
    hint = nearest(path.name, names)
    if hint.startswith("choose from") and len(names) > _LISTED:
        hint = f"choose from: {listed(sorted(names), _LISTED)}"
    folder = "the current folder" if path.parent == Path() else path.parent
    return f"{folder} has no {path.name!r}; {hint if names else 'the folder is empty'}"
