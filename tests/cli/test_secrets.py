"""Secrets are in no output: log at any level, settings, errors, command lines of processes."""

import subprocess
import time
from pathlib import Path

import pytest

from stream_al.config import ConfigError, load

from .conftest import write_settings

pytestmark = pytest.mark.fault(
    "a secret shown", "logs at all levels, settings, errors, tracebacks, process lists"
)
SECRET = "hunter2-correct-horse"
NAMES = ("SASL_PLAIN_PASSWORD", "SSL_PASSWORD", "SASL_OAUTH_TOKEN")
CLIENT = {
    "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "ann",
    "sasl_plain_password": SECRET,
}  # fmt: skip
AWAY = {
    "broker": {"url": "kafka://127.0.0.1:1", "client": CLIENT},
    "http": {"port": 0},
    "log": {"level": "debug"},
}


@pytest.fixture
def secrets(place, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(f"STREAM_AL_BROKER__CLIENT__{name}", SECRET)


@pytest.mark.parametrize(
    "arguments",
    [("config", "show"), ("config", "show", "--json"), ("config", "show", "--origins"), ("config", "schema"), ("check",), ("status",),
     ("config", "show", "--set", "broker.client.nonsense=["), ("config", "show", "--set", "broker.client=text"), ("run", "--set", "strategy=x")],
)  # fmt: skip
def test_no_verb_shows_one(cli, secrets, arguments):
    end = cli(*arguments)
    assert SECRET not in end.stdout + end.stderr


def test_an_error_in_the_file_shows_none(cli):
    for text in (
        f"broker: {{client: {{sasl_plain_password: [{SECRET}}}}}\n",
        f"broker:\n  password: {SECRET}\n",
        f"token: {SECRET}\n",
    ):
        Path("config.yaml").write_text(text)
        end = cli("config", "show")
        assert end.exit_code == 78
        assert SECRET not in end.stdout + end.stderr


def test_the_service_s_log_shows_none_when_the_broker_is_away(program):
    write_settings(AWAY)
    process = program("run")
    said = [process.stderr.readline()]
    while "broker away" not in said[-1]:
        said.append(process.stderr.readline())
        assert said[-1], said
    line = Path(f"/proc/{process.pid}/cmdline")
    if line.exists():
        assert SECRET.encode() not in line.read_bytes()
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert SECRET not in out + "".join(said) + err


def test_a_bug_s_traceback_shows_none(cli, secrets, monkeypatch):
    def broken(loop):
        password = loop.settings.broker.client["sasl_plain_password"]
        raise RuntimeError(f"with a local variable of {len(password)} characters")

    monkeypatch.setattr("stream_al.service.loop.Loop.run", broken)
    monkeypatch.setattr("stream_al.service.loop.Loop.install_signals", lambda _: None)
    for form in ("json", "console"):
        end = cli("run", "--set", "http.port=null", "--set", f"log.format={form}")
        assert end.exit_code == 1
        assert "local variable" in end.stderr
        assert SECRET not in end.stdout + end.stderr


@pytest.mark.parametrize(
    "text",
    [f"broker.client.sasl_plain_password={SECRET}", f"broker.client={{ssl_password: {SECRET}}}",
     f"broker={{client: {{sasl_oauth_token: {SECRET}}}}}"],
)  # fmt: skip
def test_on_the_command_line_they_are_refused(cli, text):
    end = cli("status", "--set", text)
    assert end.exit_code == 78
    assert "STREAM_AL_BROKER__CLIENT__" in end.stderr
    assert "every user of this machine" in end.stderr
    assert SECRET not in end.stdout + end.stderr


def test_settings_do_not_show_them_in_their_repr_s_place():
    with pytest.raises(ConfigError) as caught:
        load(None, [f"broker.client.sasl_plain_password={SECRET}", "broker.partitions=0"], environ={})
    assert SECRET not in str(caught.value)


def test_a_process_list_shows_none(program, monkeypatch):
    monkeypatch.setenv("STREAM_AL_BROKER__CLIENT__SASL_PLAIN_PASSWORD", SECRET)
    program("run")
    time.sleep(1)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False)
    assert SECRET not in listed.stdout
