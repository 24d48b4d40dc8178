"""A model hub on loopback that speaks what huggingface_hub asks, and fails in the ways hubs fail.

    with FakeHub() as hub:
        commit = hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": weights})
        hub.cut["model.safetensors"] = [1000]        # close the first connection after 1,000 bytes
        run(env=hub.environment(tmp_path))

What it serves: `/api/models/ID/revision/REV`, `/api/models/ID/tree/COMMIT`, and
`/ID/resolve/COMMIT/FILE`, `main` for the newest commit (HEAD and GET, with Range; weights redirect
to `/blob/SHA256`, as the real hub sends large files to a store elsewhere).
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["FakeHub", "Request"]


@dataclass(frozen=True)
class Request:
    """What the client asked: path without the query, and the headers that matter."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Repository:
    """A model's files by commit; `main` is the newest."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""


def is_large(name: str) -> bool:
    """Whether the hub keeps this file in its large-file store, named by SHA-256."""
    return name.endswith((".safetensors", ".bin"))


def oid(name: str, data: bytes) -> str:
    """The content's name: SHA-256, or git's SHA-1 of a blob for small files."""
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub:
    """The server, from `with` to the end of it.

    Attributes:
        requests: everything that was asked, in order.
        cut: file name → bytes after which each next answer with its content is cut off.
        damage: names of files whose content has one bit flipped on the way.
        lose_tail: names of files whose content arrives without its last 100 bytes, at peace.
        fail: file name → HTTP status of every answer with its content.
        stall: file name → an event; the answer stops after half of the content until it is set.
        gated: ids of models that ask for a token; tokens: the valid ones (a bad one gives 401).
        down: HTTP status of every answer, where not None.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.cut: dict[str, list[int]] = defaultdict(list)
        self.damage: set[str] = set()
        self.lose_tail: set[str] = set()
        self.fail: dict[str, int] = {}
        self.stall: dict[str, threading.Event] = {}
        self.stalled = threading.Event()
        self.gated: set[str] = set()
        self.tokens: set[str] = set()
        self.down: int | None = None

    def __enter__(self) -> FakeHub:
        hub = self

        class Bound(Handler):
            pass

        Bound.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the hub down: from now on connections are refused."""
        for event in self.stall.values():
            event.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """Where it listens, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def store(self) -> str:
        """The same server by another name: to a client, the large-file store is another host."""
        return self.url.replace("127.0.0.1", "localhost")

    def add(self, name: str, files: dict[str, bytes]) -> str:
        """Publish a commit of model `name` on its main branch; gives the commit's hash."""
        content = json.dumps([(path, oid(path, data)) for path, data in sorted(files.items())])
        commit = hashlib.sha1(content.encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository())
        repository.commits[commit] = dict(files)
        repository.main = commit
        return commit

    def add_folder(self, name: str, folder: Path) -> str:
        """Publish the files of `folder`, sub-folders included."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return self.add(name, {str(p.relative_to(folder)): p.read_bytes() for p in paths})

    def environment(self, home: Path) -> dict[str, str | None]:
        """Environment of a client that talks to this hub only, with its cache in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": None,
            "HF_TOKEN": None,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def asked(self, part: str = "", method: str | None = None) -> list[Request]:
        """The requests so far whose path contains `part`."""
        return [r for r in self.requests if part in r.path and method in (None, r.method)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802 - the name that http.server calls
        self.answer()

    def do_GET(self) -> None:  # noqa: N802
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token))
        if self.hub.down is not None:
            self.say(self.hub.down, {})
            return
        if token is not None and token not in self.hub.tokens:
            self.say(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return
        parts = path.strip("/").split("/")
        if parts[:1] == ["blob"]:
            self.send_blob(parts[1])
        elif path == "/api/agent-harnesses":  # a registry that the client asks for once a day
            self.say_json({"standardEnvVars": [], "harnesses": {}})
        elif parts[:2] == ["api", "models"] and len(parts) >= 5:
            self.api("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), token)
        else:
            self.say(404, {})

    def repository(self, name: str) -> Repository | None:
        """The model, or None where the answer was an error, which is then sent."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            # The real hub says 401 to strangers, so as not to tell what exists.
            message = "Repository not found"
            self.say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": message})
        return repository

    def api(self, name: str, rest: list[str]) -> None:
        repository = self.repository(name)
        if repository is None:
            return
        revision = "/".join(rest[1:]) or "main"
        commit = repository.main if revision == "main" else revision
        files = repository.commits.get(commit)
        if files is None:
            self.say(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev"})
        elif rest[0] == "revision":
            siblings = [{"rfilename": path} for path in files]
            self.say_json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})
        else:
            self.say_json([self.tree_entry(path, data) for path, data in files.items()])

    @staticmethod
    def tree_entry(path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if is_large(path):
            entry["lfs"] = {"oid": oid(path, data), "size": len(data), "pointerSize": 134}
        return entry

    def file(self, name: str, commit: str, path: str, token: str | None) -> None:
        repository = self.repository(name)
        if repository is None:
            return
        if name in self.hub.gated and token is None:  # a gated model's list of files is public
            message = f"Access to model {name} is restricted."
            self.say(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
            return
        commit = repository.main if commit == "main" else commit
        data = repository.commits.get(commit, {}).get(path)
        if data is None:
            self.say(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{oid(path, data)}"'}
        if is_large(path):
            headers["X-Linked-Size"] = str(len(data))
            headers["X-Linked-Etag"] = headers["ETag"]
            headers["Location"] = f"{self.hub.store}/blob/{oid(path, data)}"
            self.say(302, headers)
        else:
            self.send_content(path, data, headers)

    def send_blob(self, sha256: str) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for path, data in files.items():
                    if is_large(path) and oid(path, data) == sha256:
                        self.send_content(path, data, {"ETag": f'"{sha256}"'})
                        return
        self.say(404, {})

    def send_content(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        """The bytes of a file, or the part that Range asks for, with the hub's failures."""
        if self.command == "GET" and path in self.hub.fail:
            self.say(self.hub.fail[path], {})
            return
        if path in self.hub.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if path in self.hub.lose_tail and self.command == "GET":
            data = data[:-100]
        status, total = 200, len(data)
        wanted = self.headers.get("Range")
        if wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or total) + 1, total)
            data = data[begin:end]
            status = 206
            headers = {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{total}"}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut[path]:
            self.wfile.write(data[: self.hub.cut[path].pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if path in self.hub.stall:
            half = len(data) // 2
            self.wfile.write(data[:half])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.stall[path].wait(60)
            data = data[half:]
        self.wfile.write(data)

    def say(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def say_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
