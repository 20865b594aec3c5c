"""A real Label Studio as a process, and what its annotators do, through its API."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "0123456789abcdef0123456789abcdef01234567"
ANN = "ann@example.org"
START_S = 180.0  # the first start migrates, beside others


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Studio:
    """One Label Studio on loopback, with a data folder of its own."""

    def __init__(self, program: Path, data: Path, port: int | None = None):
        self.program, self.data, self.port = program, data, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.data.mkdir(parents=True, exist_ok=True)
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("STREAM_AL_", "LABEL_STUDIO_"))
        }
        environment |= {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_USERNAME": ANN,
            "LABEL_STUDIO_PASSWORD": "an-0rdinary-password",
            "LABEL_STUDIO_USER_TOKEN": TOKEN,
            "LATEST_VERSION_CHECK": "false",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        command = [
            self.program,
            "start",
            "--no-browser",
            "--internal-host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        with (self.data / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.data, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while not self.up():
            assert self.process.poll() is None, (self.data / "log.txt").read_text()[-3000:]
            assert time.monotonic() < deadline, "Label Studio does not start"
            time.sleep(0.1)
        return self

    def up(self):
        with contextlib.suppress(OSError):
            return self.call("GET", "/health")["status"] == "UP"
        return False

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def call(self, method, path, body=None, token=f"Token {TOKEN}"):
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": token, "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    # --- what people see and do ------------------------------------------------------------------------------

    def project(self, title):
        found = self.call("GET", "/api/projects?page_size=1000")["results"]
        return next((p for p in found if p["title"] == title), None)

    def tasks(self, title):
        project = self.project(title)
        if project is None:
            return []
        query = urllib.parse.urlencode({"project": project["id"], "fields": "all", "page_size": 1000})
        return self.call("GET", f"/api/tasks?{query}")["tasks"]

    def annotate(self, task, choice=None, *, typed=None, number=None, skip=False, **more):
        return self.call(
            "POST",
            f"/api/tasks/{task['id']}/annotations",
            {"result": result(choice, typed, number), "was_cancelled": skip, "lead_time": 1.5, **more},
        )

    def change(self, annotation, choice):
        return self.call("PATCH", f"/api/annotations/{annotation['id']}", {"result": result(choice)})


def result(choice=None, typed=None, number=None):
    found = []
    for name, kind, value in (
        ("label", "choices", choice and {"choices": [choice]}),
        ("new_class", "textarea", typed and {"text": [typed]}),
        ("label", "number", None if number is None else {"number": number}),
    ):
        if value:
            found.append({"from_name": name, "to_name": "features", "type": kind, "value": value})
    return found


def migrated(program: Path, folder: Path):
    """Return a data folder that a start needs not migrate: made once, whoever else waits for it."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = folder.with_name("half")
            shutil.rmtree(half, ignore_errors=True)
            studio = Studio(program, half)
            try:
                studio.start()
            finally:
                studio.stop()
            (half / "log.txt").unlink()
            half.rename(folder)
    return folder


def fresh(program: Path, template: Path, data: Path):
    """Return a Label Studio that nobody has used."""
    shutil.copytree(template, data)
    return Studio(program, data)


class Relay:
    """Stands before a Label Studio and does to calls what tests want: ``on(method, path)`` may return a name.

    ``drop``: the connection is closed before the call went on; ``lose``: after it was carried out, unanswered;
    ``late``: unanswered, and it goes on only at ``release``. Anything that is a number is answered with that status.
    """

    def __init__(self, studio: Studio):
        self.studio, self.on, self.calls, self.held = studio, lambda *_: None, [], []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def relay(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                relay.calls.append((self.command, self.path))
                wanted = relay.on(self.command, self.path)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                call = self.command, self.path, body, headers
                if isinstance(wanted, int):
                    self.send_response(wanted)
                    self.send_header("Content-Length", "0")
                    self.send_header("Location", "http://elsewhere.example/login?next=1")
                    self.end_headers()
                    return
                if wanted == "late":
                    relay.held.append(call)
                if wanted == "lose":
                    relay.forward(*call)
                if wanted is None:
                    status, found, text = relay.forward(*call)
                    self.send_response_only(status)
                    for name in ("Content-Type", "Date"):
                        self.send_header(name, found.get(name) or "")
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                self.close_connection = True

            do_GET = do_POST = do_PATCH = do_DELETE = relay  # noqa: N815  the library's names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def forward(self, method, path, body, headers):
        connection = HTTPConnection("127.0.0.1", self.studio.port, timeout=20)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def release(self):
        held, self.held = self.held, []
        return [self.forward(*call)[0] for call in held]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
