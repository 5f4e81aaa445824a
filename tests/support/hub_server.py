"""A hub on 127.0.0.1 that serves a folder, with the endpoints needed for reading and pushing.

    root/datasets/<owner>/<name>/<files>
    root/models/<owner>/<name>/<files>
    root/requests.jsonl                     write requests
    root/large/<sha256>                     uploaded files, until a commit refers to them
    root/private/<owner>/<name>             exists if the model is private

Clients read HF_ENDPOINT on import: use the hub from a fresh process, or patch the constants of
huggingface_hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_canaryCANARYcanaryCANARYcanary1234"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)
_API = re.compile(
    r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?$"
)
_FILE = re.compile(r"^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


_WRITE = re.compile(
    r"^/(?:api/(?P<create>repos/create)|api/(?P<card>validate-yaml)"
    r"|api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/main"
    r"|(?P<batched>[^/]+/[^/]+)\.git/info/lfs/objects/batch"
    r"|large/(?P<oid>[0-9a-f]{64}))$"
)


@dataclass
class Fault:
    """Failure of the first `times` requests with `part` in their path.

    The response repeats the request's token, as that of a careless hub may.
    """

    part: str
    status: int
    """Status of the response; 0: the request succeeds, but the connection is cut in the response.
    """
    times: int = 1_000_000
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0

    def strikes(self, path: str) -> bool:
        if self.part not in path:
            return False
        self.seen += 1
        return self.seen <= self.times


@contextmanager
def serve_hub(root: Path, *faults: Fault) -> Iterator[str]:
    """Serve `root` as a hub inside the context; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, root, faults))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, faults: tuple[Fault, ...], *args: Any) -> None:
        self.root = root
        self.faults = faults
        self.cuts = False
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if match := _WRITE.match(unquote(urlsplit(self.path).path)):
            self._write(match, body)
        else:
            self._answer(body)

    do_PUT = do_POST  # noqa: N815 - the name that http.server expects

    def _fails(self) -> bool:
        """True if a fault has answered this request."""
        fault = next((fault for fault in self.faults if fault.strikes(self.path)), None)
        if fault is None:
            return False
        if fault.status:
            body = {"error": f"refused {self.headers.get('Authorization')}"}
            self._send(fault.status, json.dumps(body).encode(), "application/json", fault.headers)
            return True
        self.cuts = True
        return False

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        if self._fails():
            return
        if match := _FILE.match(path):
            kind, repo, revision, name = match.groups()
            self._send_file(self.root / (kind or "models") / repo, revision, name)
        elif match := _API.match(path):
            kind, repo, what, revision, inside = match.groups()
            folder = self.root / kind / repo
            if not folder.is_dir():
                self._refuse("RepoNotFound")
            elif revision and revision not in REVISIONS:
                self._refuse("RevisionNotFound")
            elif what == "tree":
                self._send_tree(folder, inside)
            elif what == "paths-info":
                self._send_paths(folder, body)
            else:
                self._send_json(_repo_info(folder, repo, (self.root / "private" / repo).exists()))
        else:
            self._refuse("EntryNotFound")

    def _send_file(self, folder: Path, revision: str, name: str) -> None:
        path = folder / name
        if not folder.is_dir():
            self._refuse("RepoNotFound")
        elif revision not in REVISIONS:
            self._refuse("RevisionNotFound")
        elif not path.is_file():
            self._refuse("EntryNotFound")
        else:
            headers = {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            body = path.read_bytes()
            start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._send(206 if start else 200, body[start:], "application/octet-stream", headers)

    def _send_tree(self, folder: Path, inside: str) -> None:
        start = folder / inside
        if not start.is_dir():
            self._refuse("EntryNotFound")
            return
        query = parse_qs(urlsplit(self.path).query)
        is_deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        paths = start.rglob("*") if is_deep else start.iterdir()
        self._send_json([_entry(folder, path) for path in sorted(paths)])

    def _send_paths(self, folder: Path, body: bytes) -> None:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            names = json.loads(body)["paths"]
        else:
            names = parse_qs(body.decode())["paths"]
        paths = [folder / name for name in ([names] if isinstance(names, str) else names)]
        self._send_json([_entry(folder, path) for path in paths if path.exists()])

    # ---- writing

    def _write(self, match: re.Match[str], body: bytes) -> None:
        request = {"path": self.path, "authorization": self.headers.get("Authorization")}
        if self.command == "POST":
            request["lines"] = [json.loads(line) for line in body.splitlines()]
        with (self.root / "requests.jsonl").open("a") as file:
            file.write(json.dumps(request) + "\n")
        if self._fails():
            return
        if match["create"]:
            self._create(json.loads(body))
        elif match["card"]:
            self._send_json({"warnings": [], "errors": []})
        elif match["what"] == "preupload":
            self._send_json({"files": [_upload_mode(file) for file in json.loads(body)["files"]]})
        elif match["what"] == "commit":
            self._commit(self.root / "models" / match["repo"], body)
        elif match["batched"]:
            files = json.loads(body)["objects"]
            self._send_json({"objects": [self._upload_target(file) for file in files]})
        else:
            self._store(match["oid"], body)

    def _create(self, request: dict[str, Any]) -> None:
        repo = f"{request['organization']}/{request['name']}"
        if not (self.root / "models" / repo).exists():
            (self.root / "models" / repo).mkdir(parents=True)
            if request.get("private", request.get("visibility") == "private"):
                (self.root / "private" / repo).mkdir(parents=True)
        self._send_json({"url": f"http://{self.headers['Host']}/{repo}", "name": repo})

    def _upload_target(self, file: dict[str, Any]) -> dict[str, Any]:
        """Return the upload address of a large file; without one if the file exists already."""
        if (self.root / "large" / file["oid"]).is_file():
            return file
        href = f"http://{self.headers['Host']}/large/{file['oid']}"
        return {**file, "actions": {"upload": {"href": href}}}

    def _store(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        (self.root / "large").mkdir(exist_ok=True)
        (self.root / "large" / oid).write_bytes(body)
        self._send(200, b"", "text/plain", {})

    def _commit(self, folder: Path, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
            elif line["key"] in ("file", "lfsFile"):
                path = folder / value["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                if line["key"] == "file":
                    path.write_bytes(base64.b64decode(value["content"]))
                else:
                    path.write_bytes((self.root / "large" / value["oid"]).read_bytes())
        url = f"http://{self.headers['Host']}/{folder.parent.name}/{folder.name}/commit/{COMMIT}"
        self._send_json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json", {})

    def _refuse(self, code: str) -> None:
        self._send(404, b'{"error": "not found"}', "application/json", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.cuts else body)
        if self.cuts:  # the request has succeeded, but half of the response is lost
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _repo_info(folder: Path, repo: str, private: bool) -> dict[str, Any]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "_id": hashlib.sha1(repo.encode()).hexdigest()[:24],
        "id": repo,
        "sha": COMMIT,
        "private": private,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": path.relative_to(folder).as_posix()} for path in files],
    }


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": _oid(path), "size": path.stat().st_size}


def _upload_mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def at(address: str, root: Path) -> Iterator[None]:
    """Point huggingface_hub in this process to a hub, with a token and an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(root.parent / "cache"))
        patch.setenv("HF_TOKEN", TOKEN)
        yield
