"""A stand-in for the Hugging Face hub: a real HTTP server with the few endpoints that huggingface_hub asks for a download.

with Hub() as hub:
    hub.add("org/name", files)            # a commit, and main is it
    environment = hub.environment(home)   # HF_ENDPOINT and HF_HOME for a process that uses it
    hub.downloads                         # paths whose bytes were asked for, in order
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from peerload.hub.blobs import looks_large

_PIECE = 64 * 1024


def git_name(data: bytes) -> str:
    """Git's sha1 of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(path: str, data: bytes) -> str:
    """What the hub calls the bytes of a file."""
    return hashlib.sha256(data).hexdigest() if looks_large(path, len(data)) else git_name(data)


def commit_of(files: Mapping[str, bytes]) -> str:
    """A commit's hash: the same for the same files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def write_cache(cache: Path, model: str, files: Mapping[str, bytes], *, refs: tuple[str, ...] = ("main",)) -> str:
    """Put a commit into a Hugging Face cache as huggingface_hub does; the commit."""
    commit = commit_of(files)
    repo = cache / f"models--{model.replace('/', '--')}"
    for path, data in files.items():
        blob = repo / "blobs" / etag(path, data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        pointer = repo / "snapshots" / commit / path
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to("../" * (2 + path.count("/")) + f"blobs/{blob.name}")
    for ref in refs:
        (repo / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return commit


@dataclass
class Repo:
    """A model on the hub."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


class Hub:
    """The server, on a port of its own; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.downloads: list[str] = []
        self.pause_at: dict[str, int] = {}
        """Per path, after how many bytes a download stops until `go_on` is set."""
        self.go_on = threading.Event()
        self.paused = threading.Event()
        """Set once a download has stopped so."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, model: str, files: Mapping[str, bytes], *, ref: str = "main") -> str:
        """A commit of these files, that `ref` stands for from now on."""
        repo = self.repos.setdefault(model, Repo())
        commit = commit_of(files)
        repo.commits[commit] = dict(files)
        repo.refs[ref] = commit
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to use this hub, with a cache below `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            # A download that was paused must not give up.
            "HF_HUB_DOWNLOAD_TIMEOUT": "120",
            "NO_PROXY": "127.0.0.1",
        }


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(r"/api/models/(.+)/revision/(.+)", path):
                self.info(found[1], found[2])
            elif found := re.fullmatch(r"/api/models/(.+)/tree/([^/]+)/?", path):
                self.tree(found[1], found[2])
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.file(*found.groups())
            else:
                self.refuse("EntryNotFound")

        def files(self, model: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            repo = hub.repos.get(model)
            if repo is None:
                self.refuse("RepoNotFound")
                return None
            commit = repo.refs.get(revision, revision)
            if commit not in repo.commits:
                self.refuse("RevisionNotFound")
                return None
            return commit, repo.commits[commit]

        def info(self, model: str, revision: str) -> None:
            if (found := self.files(model, revision)) is not None:
                commit, files = found
                siblings = [{"rfilename": path} for path in files]
                self.send({"id": model, "modelId": model, "sha": commit, "siblings": siblings, "tags": []})

        def tree(self, model: str, revision: str) -> None:
            if (found := self.files(model, revision)) is not None:
                entries = []
                for path, data in found[1].items():
                    entry = {"type": "file", "path": path, "size": len(data), "oid": git_name(data)}
                    if looks_large(path, len(data)):
                        entry["lfs"] = {"oid": etag(path, data), "size": len(data), "pointerSize": 134}
                    entries.append(entry)
                self.send(entries)

        def file(self, model: str, revision: str, path: str) -> None:
            found = self.files(model, revision)
            if found is None:
                return
            commit, files = found
            if path not in files:
                self.refuse("EntryNotFound", commit)
                return
            data, start = files[path], 0
            if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start = int(wanted[1])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{etag(path, data)}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            hub.downloads.append(path)
            pause = hub.pause_at.get(path, len(data))
            try:
                for at in range(start, len(data), _PIECE):
                    if at >= pause and not hub.go_on.is_set():
                        hub.paused.set()
                        hub.go_on.wait()
                    self.wfile.write(data[at : at + _PIECE])
            except OSError:
                self.close_connection = True  # whoever asked was killed

        def send(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, code: str, commit: str = "") -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"no such thing: {code}")
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    return Handler
