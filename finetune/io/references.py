"""A model or data reference -> the files it means: a path, pkg://<package>/<path>, or a hub id.

Nothing is downloaded, imported or written here.
"""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from finetune.config.formats import FILE_ENDINGS
from finetune.errors import DataError, FinetuneError, ModelError, listed, nearest

PACKAGE_SCHEME = "pkg://"
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_HUB_URL = re.compile(r"^(?:https?://huggingface\.co|hf:/)/(?:datasets/|models/)?([^/?#]+/[^/?#]+)")
_PATH_START = re.compile(r"^(?:\.{1,2}(?:[/\\]|$)|/|~|[A-Za-z]:[/\\]|\\)")
_LISTED = 12


def locate(reference: str, error: type[FinetuneError] = DataError) -> Path | None:
    """The file or folder that a reference means, or None for a hub id.

    Raises `error` for a reference that can only be a path or a package, and leads nowhere.
    """
    if not reference.strip():
        raise error(f"{reference!r} names nothing; give a path, a hub id or pkg://<package>/<path>")
    if reference.startswith(PACKAGE_SCHEME):
        return _in_package(reference, error)
    if _URL.match(reference):
        raise error(f"{reference}: addresses are not fetched; {_instead_of_url(reference)}")
    path = Path(reference).expanduser()
    if path.exists():
        return path
    if _must_be_path(reference):
        raise error(f"{reference}: no such file or folder; {_what_is_near(path)}")
    return None


def resolve_model(name: str) -> str:
    """What `from_pretrained` takes for a model's name: a local path, or the hub id as it stands."""
    path = locate(name, ModelError)
    return name if path is None else str(path)


def _must_be_path(reference: str) -> bool:
    """Whether the reference cannot be a hub id, which is `name` or `owner/name`."""
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
    # Checked by name: installers may link files to a store elsewhere, so that a resolved path
    # leads out of the package in good faith.
    if any(part == ".." or "\\" in part or ":" in part for part in parts):
        raise error(
            f"{reference}: leads out of the package; name files below {PACKAGE_SCHEME}{package}/"
        )
    roots = _package_roots(reference, package, error)
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    missing = roots[0].joinpath(*parts)
    raise error(f"{reference}: no such file in the package {package}; {_what_is_near(missing)}")


def _package_roots(reference: str, package: str, error: type[FinetuneError]) -> list[Path]:
    """The folders of an installed package, found without importing it."""
    if package.isidentifier():
        try:
            # Only a top-level name: find_spec("a.b") would import a.
            spec = find_spec(package)
        except ValueError:  # a module that was made by hand and has no spec
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return [Path(root) for root in spec.submodule_search_locations]
        if spec is not None:
            raise error(
                f"{reference}: {package} is a single module and holds no files; name a package"
            )
    raise error(f"{reference}: {_how_to_install(package)}")


def _how_to_install(package: str) -> str:
    if not package:
        return f"names no package; write {PACKAGE_SCHEME}<package>/<path>"
    owners = metadata.packages_distributions()
    # Often the name on the package index is given where the name for `import` is meant.
    named = sorted(name for name, dists in owners.items() if _plain(package) in map(_plain, dists))
    if named:
        return f"{package} installs {', '.join(named)}; write {PACKAGE_SCHEME}{named[0]}/..."
    if "." in package:
        return f"a dot is not a folder; write {PACKAGE_SCHEME}{package.replace('.', '/')}/..."
    return f"the package {package!r} is not installed; run: pip install {_plain(package)}"


def _plain(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _instead_of_url(reference: str) -> str:
    on_hub = _HUB_URL.match(reference)
    if on_hub:
        return f"give the hub id {on_hub[1]!r}"
    if reference.lower().startswith("file://"):
        return "give the path without file://"
    return "download it and give the path"


def _what_is_near(path: Path) -> str:
    """A sentence on what stands where the path stops to exist."""
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    if not path.parent.is_dir():
        return f"there is no {path}"
    names = [
        child.name for child in path.parent.iterdir() if not child.name.startswith((".", "__"))
    ]
    hint = nearest(path.name, names)
    if hint.startswith("choose from") and len(names) > _LISTED:
        hint = f"choose from: {listed(sorted(names), _LISTED)}"
    return f"in {path.parent} there is no {path.name!r}; {hint if names else 'the folder is empty'}"
