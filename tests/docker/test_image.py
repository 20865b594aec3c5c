"""The image: small, nobody's, with nothing of the machine it was built on, and it works."""

from __future__ import annotations

import json
import re
import subprocess
import time
import uuid

import pytest

from stream_al import __version__
from tests.docker.machine import run
from tests.docker.stack import until

LARGEST_BYTES = 450_000_000
HARDENED = ("--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--init")


@pytest.fixture(scope="module")
def config(engine, images):
    return engine.inspect(images)["Config"]


def test_it_is_small(engine, images):
    assert engine.inspect(images)["Size"] <= LARGEST_BYTES


def test_it_runs_as_a_number_that_is_nobody(config):
    assert re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", config["User"])


def test_it_says_what_it_is(config):
    labels = config["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == "stream-al"
    assert labels[f"{prefix}version"] == __version__
    assert {f"{prefix}description", f"{prefix}licenses", f"{prefix}revision"} <= set(labels)
    assert config["Healthcheck"]["Test"] == ["CMD", "healthy"]
    assert config["StopSignal"] == "SIGTERM"


def test_nothing_of_the_machine_is_in_it(engine, images, config):
    """Neither in its history and settings nor in any file: no index, no certificate, no path of this machine."""
    history = engine.docker("history", "--no-trunc", images).stdout
    said = run("python3", "-m", "pip", "config", "list", check=False).stdout + json.dumps(
        dict(engine.environ)
    )
    secrets = set(re.findall(r"https?://[^\s'\"]+", said))
    text = history + json.dumps(config)
    assert not [secret for secret in secrets if secret in text]
    look = (
        "find / -xdev \\( -name pip.conf -o -name '.netrc' -o -path '/run/secrets/*' \\)"
        " -size +0 2>/dev/null; ls -A /root /build 2>/dev/null | grep -v -e '^.bashrc$' -e '^.profile$' || true"
    )
    found = engine.docker(
        "run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", images, "-c", look
    ).stdout
    assert [line for line in found.splitlines() if line.strip() and not line.endswith(":")] == []


def test_no_tests_and_no_installer_are_in_it(engine, images):
    look = "find /opt/stream-al -type d -name tests; ls /opt/stream-al/bin"
    found = engine.docker(
        "run", "--rm", "--network=none", "--entrypoint=sh", images, "-c", look
    ).stdout.split()
    assert {"stream-al", "healthy", "python"} <= set(found)
    assert not [name for name in found if name.startswith(("pip", "/"))]


def test_the_whole_loop_runs_in_it_without_any_right(engine, images):
    """All of numpy, scipy and River that the default model needs is there."""
    done = engine.docker(
        "run", "--rm", *HARDENED, "--tmpfs=/tmp", images,
        "demo", "--dataset=phishing", "--samples=1000", "--no-compare", "--json",
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])


def test_nothing_can_be_written_but_what_is_meant_to(engine, images):
    script = (
        "touch /tmp/x && touch /var/lib/stream-al/x && ! touch /opt/stream-al/x && ! touch /etc/x && id -u"
    )
    done = engine.docker(
        "run", "--rm", *HARDENED, "--tmpfs=/tmp", "-v", "/var/lib/stream-al", "--entrypoint=sh", images, "-c", script
    )  # fmt: skip
    assert done.stdout.strip() == "10001"


@pytest.mark.parametrize("init", [True, False])
def test_a_sigterm_ends_it_cleanly(engine, images, init):
    """Also where it is process 1 itself, and before Python has started."""
    name = f"ends-{uuid.uuid4().hex[:8]}"
    rights = [right for right in HARDENED if init or right != "--init"]
    engine.docker("run", "-d", "--name", name, *rights, "--tmpfs=/tmp", "-v", "/var/lib/stream-al", images)
    try:
        deadline = time.monotonic() + 20
        while engine.docker("exec", name, "healthy", check=False).returncode:
            assert time.monotonic() < deadline, engine.docker("logs", name).stderr
            time.sleep(0.2)
        engine.docker("stop", "-t", "10", name)
        assert engine.inspect(name)["State"]["ExitCode"] == 0
    finally:
        engine.docker("rm", "-f", "-v", name)


def test_a_sigterm_before_it_has_begun_is_not_lost(engine, images):
    name = f"early-{uuid.uuid4().hex[:8]}"
    engine.docker("run", "-d", "--name", name, *HARDENED, "--tmpfs=/tmp", "-v", "/var/lib/stream-al", images)
    try:
        until(
            lambda: engine.docker("top", name).stdout.count("stream-al") > 1, 60, "its init has begun nothing"
        )
        engine.docker("stop", "-t", "10", name)
        assert engine.inspect(name)["State"]["ExitCode"] in (0, 143)
    finally:
        engine.docker("rm", "-f", "-v", name)


def test_where_nobody_listens_the_health_check_fails(engine, images):
    done = engine.docker(
        "run", "--rm", "--network=none", "--entrypoint=healthy", images, check=False, timeout_s=30
    )
    assert done.returncode == 1
    assert "no answer on port 9108" in done.stdout


def test_wrong_settings_are_said_with_their_exit_code(engine, images):
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "-e", "STREAM_AL_BUDGET__FRACTION=7", images, "run"],
        env=engine.environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert "budget.fraction" in done.stderr
