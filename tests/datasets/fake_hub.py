"""As much of the Hugging Face Hub's HTTP interface as loading a small dataset takes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"""---
configs:
- config_name: easy
  data_files: [{split: train, path: easy/train.csv}, {split: test, path: easy/test.csv}]
- config_name: hard
  data_files: [{split: train, path: hard/train.csv}]
---
"""
ROWS = b"text,label\na,yes\nb,no\n"
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "lab/subsets": {
        "README.md": PAGE,
        "easy/train.csv": ROWS,
        "easy/test.csv": b"text,label\nc,no\nd,yes\n",
        "hard/train.csv": ROWS,
    },
    "lab/plain": {"train.csv": ROWS},
    "lab/script": {"script.py": b"raise SystemExit", "README.md": b"code"},
    "lab/nothing": {"README.md": b"no data"},
    "lab/broken": {"train.jsonl": b'{"text": '},
    "lab/gated": {"README.md": b"terms", "train.csv": ROWS},
}


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        api = parts[0] == "api"
        name, rest = "/".join(parts[1 + api : 3 + api]), parts[3 + api :]
        files = REPOSITORIES.get(name)
        if files is None:
            return self._answer(404, error="RepoNotFound")
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self._answer(404, error="RevisionNotFound")
        if api and (not rest or rest[0] == "revision"):
            siblings = [{"rfilename": file} for file in files]
            return self._answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}))
        if api and rest[0] in ("tree", "paths-info"):
            return self._answer(200, json.dumps(self._tree(files, "/".join(rest[2:]))))
        if name == "lab/gated":
            return self._answer(403, error="GatedRepo")
        content = files.get("/".join(rest[2:]))
        if content is None:
            return self._answer(404, error="EntryNotFound")
        return self._answer(200, content)

    def _tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": file, "size": len(content), "oid": _digest(content)}
            for file, content in files.items()
            if file.startswith(folder)
        ]

    def _answer(self, status: int, content: str | bytes = b"", error: str = "") -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_digest(body)}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Nothing."""


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def fake_hub() -> Iterator[str]:
    """Serve it on this machine. -> its address, for HF_ENDPOINT"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
