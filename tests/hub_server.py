"""A hub on the loopback interface that speaks what huggingface_hub's client asks for.

Model info by branch or commit; ``resolve`` with the headers of etag and commit, files of weights
behind a redirect as those in LFS are; ranges; and the errors of private, gated and missing
repositories with the hub's own codes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Repository:
    """Files by their path; ``branches`` to commits; ``access``: open, private or gated."""

    files: dict[str, bytes]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v1": OLDER})
    access: str = "open"

    @classmethod
    def of(cls, folder: Path, **options: Any) -> Repository:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        return cls(files, **options)


class Hub:
    """Use it as a context manager.

    Attributes:
        requests: method, path and ``Range`` of all requests.
        cuts: of a file's name, after how many bytes a download is cut, once.
        token: what opens private and gated repositories.
    """

    def __init__(self, **repositories: Repository) -> None:
        self.repositories = {name.replace("__", "/"): r for name, r in repositories.items()}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cuts: dict[str, int] = {}
        self.token = "hf_right"

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloaded(self) -> list[str]:
        """Names of files that were asked for, in turn."""
        found = []
        for method, path, _ in self.requests:
            match = re.fullmatch(r"/(?:cdn/)?[\w.-]+/[\w.-]+/(?:resolve/)?[\w.-]+/(.+)", path)
            if method == "GET" and match and not path.startswith("/api/"):
                found.append(match[1])
        return found


_NONE: dict[str, str] = {}


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.owner.requests.append((self.command, self.path, self.headers.get("Range")))
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?", self.path)
        file = re.fullmatch(r"/(cdn/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if info is not None:
            self._info(info[1], info[2] or "main")
        elif file is not None:
            self._file(file[1] is not None, file[2], file[3], file[4])
        else:
            self._send(404, b"{}")

    def _repository(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.owner.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {self.owner.token}"
        if repository is None or (repository.access == "private" and not known):
            # Without a token the hub does not tell a missing repository from a private one.
            anonymous = self.headers.get("Authorization") is None
            code = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            if anonymous:
                code = {"X-Error-Message": "Invalid username or password."}
            self._send(401 if anonymous else 404, b'{"error":"Repository not found"}', code)
            return None
        if repository.access == "gated" and not known:
            message = "Access to this model is restricted"
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.branches.values():
            code = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
            self._send(404, b"{}", code)
            return None
        return repository, commit

    def _info(self, name: str, revision: str) -> None:
        found = self._repository(name, revision)
        if found is None:
            return
        repository, commit = found
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        body = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings}
        self._send(200, json.dumps({**body, "tags": [], "private": False}).encode())

    def _file(self, is_cdn: bool, name: str, revision: str, path: str) -> None:
        found = self._repository(name, revision)
        if found is None:
            return
        repository, commit = found
        data = repository.files.get(path)
        if data is None:
            code = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._send(404, b"{}", {**code, "X-Repo-Commit": commit})
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
        if not is_cdn and path.endswith((".safetensors", ".bin")):
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
            location = f"{self.owner.url}/cdn{self.path}"
            self._send(302, b"", {**headers, **linked, "Location": location})
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.owner.cuts.pop(path, None) if self.command == "GET" else None
        self._send(206 if start else 200, data[start:], headers, cut)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
