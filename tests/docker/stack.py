"""The system of ``docker/compose.yaml`` in an engine of the tests', seen from inside its network namespace."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stream_al.transport.port import Closeable
from tests.docker.machine import HERE, ROOT, Engine, run

FILES = [ROOT / "docker" / "compose.yaml", HERE / "compose.test.yaml"]
IMAGE = "stream-al:test"
PORTS = {
    "scorer-1": 9111,
    "scorer-2": 9112,
    "learner-1": 9121,
    "learner-2": 9122,
    "desk": 9108,
    "embedded": 9108,
}
HOOK_PORT = 9999

# runs inside the namespace: it asks for all addresses given, and says what they answered
ASK = """
import json, sys, urllib.request, urllib.error
found = []
for url, body, headers in json.load(sys.stdin):
    asked = urllib.request.Request(url, None if body is None else body.encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            found.append((answer.status, answer.read().decode()))
    except urllib.error.HTTPError as error:
        found.append((error.code, error.read().decode()))
    except OSError as error:
        found.append((0, str(error)))
json.dump(found, sys.stdout)
"""

# the webhook: each body becomes a line
HOOK = f"""
import http.server, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["content-length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", {HOOK_PORT}), Hook).serve_forever()
"""


def until(condition: Callable[[], Any], seconds: float, what: str | Callable[[], Any]) -> Any:
    """Return what ``condition`` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.3)
    return found


def monitoring(directory: Path) -> dict[str, str]:
    """Write Prometheus' and Alertmanager's configuration as they are, but quicker and with a receiver."""
    prometheus, alertmanager = directory / "prometheus", directory / "alertmanager"
    shutil.copytree(ROOT / "docker" / "prometheus", prometheus)
    for name in ("prometheus.yml", "rules.yml"):
        text = (prometheus / name).read_text(encoding="utf-8")
        quick = re.sub(r"(interval|timeout): 1[05]s", r"\1: 1s", text)
        assert quick != text
        (prometheus / name).write_text(quick, encoding="utf-8")
    alertmanager.mkdir()
    text = (ROOT / "docker" / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    hooked = re.sub(
        r"# webhook_configs: .*", f'webhook_configs: [{{url: "http://webhook:{HOOK_PORT}/"}}]', text
    ).replace("group_wait: 10s", "group_wait: 1s")
    assert "http://webhook" in hooked
    (alertmanager / "alertmanager.yml").write_text(hooked, encoding="utf-8")
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {"TEST_PROMETHEUS": str(prometheus), "TEST_ALERTMANAGER": str(alertmanager)}


class Stack(Closeable):
    """One Compose project."""

    def __init__(self, engine: Engine, profile: str, directory: Path) -> None:
        self.engine, self.profile, self.directory = engine, profile, directory
        self.environ = {"STREAM_AL_IMAGE": IMAGE, **monitoring(directory)}
        self._hook: subprocess.Popen[bytes] | None = None

    def compose(self, *arguments: str, **more):
        return self.engine.compose(FILES, "--profile", self.profile, *arguments, environ=self.environ, **more)

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build")

    def container(self, service: str) -> dict:
        return self.engine.inspect(f"stream-al-{service}-1")

    def state(self, service: str) -> dict:
        return self.container(service)["State"]

    # --- inside the namespace -----------------------------------------------------------------------------------

    def _inside(self, script: str) -> list[str]:
        pid = str(self.state("netns")["Pid"])
        return ["nsenter", "-t", pid, "-n", sys.executable, "-I", "-c", script]

    def ask(self, *urls: str, body: str | None = None, headers: dict | None = None) -> list[tuple[int, str]]:
        given = json.dumps([(url, body, headers or {}) for url in urls])
        return [(n, text) for n, text in json.loads(run(*self._inside(ASK), input=given).stdout)]

    def metrics(self, service: str) -> dict[str, float]:
        """Return what a process exports, by name and labels as written; nothing while it does not answer."""
        ((status, text),) = self.ask(f"http://127.0.0.1:{PORTS[service]}/metrics")
        lines = [line for line in text.splitlines() if line and line[0] != "#"] if status == 200 else []
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def ready(self, service: str) -> bool:
        ((status, _),) = self.ask(f"http://127.0.0.1:{PORTS[service]}/readyz")
        return status == 200

    def query(self, *expressions: str) -> list[list[float]]:
        """Return for each expression the values that Prometheus finds, without NaN."""
        base = "http://127.0.0.1:9090/api/v1/query?"
        found = []
        for expression, (status, text) in zip(
            expressions,
            self.ask(*(base + urllib.parse.urlencode({"query": e}) for e in expressions)),
            strict=True,
        ):
            assert status == 200, f"{expression}: {text[:500]}"
            values = [float(one["value"][1]) for one in json.loads(text)["data"]["result"]]
            found.append([value for value in values if value == value])
        return found

    def owner(self) -> str | None:
        """Return the learner that owns the ledger."""
        found = [
            name for name in ("learner-1", "learner-2") if "stream_al_pending_requests" in self.metrics(name)
        ]
        return found[0] if len(found) == 1 else None

    def total(self, metric: str, *services: str) -> float:
        """Return the sum of a metric over its labels and over processes."""
        return sum(v for s in services for k, v in self.metrics(s).items() if k.partition("{")[0] == metric)

    # --- what is done to it -------------------------------------------------------------------------------------

    def stream_al(self, service: str, *arguments: str, stdin: str = "") -> str:
        """Run the command in a container of the service."""
        return self.compose("exec", "-T", service, "stream-al", *arguments, input=stdin).stdout

    def kill(self, service: str) -> None:
        """End a container as a crash does; ``docker kill`` would count as wanted, and nothing would start it again."""
        os.kill(self.state(service)["Pid"], signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self, service: str) -> Iterator[None]:
        self.compose("pause", service)
        try:
            yield
        finally:
            self.compose("unpause", service)

    def hook(self) -> Path:
        """Start the webhook; return the file that gets what it is told."""
        told = self.directory / "told"
        with told.open("wb") as file:
            self._hook = subprocess.Popen(self._inside(HOOK), stdout=file, stdin=subprocess.DEVNULL)
        return told

    def down(self) -> None:
        if self._hook is not None:
            self._hook.kill()
            self._hook.wait()
            self._hook = None
        self.compose("down", "--volumes", "--timeout", "10")

    def close(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.down()
