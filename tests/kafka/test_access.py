"""A Kafka that lets in only who knows a password, over TLS: the whole job there, and what is said to everybody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_al.transport.kafka import KafkaBroker
from stream_al.transport.port import TopicError, TransportError, Unavailable
from tests.e2e.world import check_all
from tests.kafka import job
from tests.kafka.broker import KafkaNode, MissingError, certificate
from tests.kafka.conftest import SettledBroker, missing
from tests.transport.contract import TransportContract

USER, SECRET, WRONG = "ann", "hunter2-correct-horse", "battery-staple-wrong"


@pytest.fixture(scope="module")
def node() -> Iterator[KafkaNode]:
    try:
        made = KafkaNode(user=(USER, SECRET))
        made.start()
    except MissingError as reason:
        missing(reason)
        raise
    yield made
    made.close()


@pytest.fixture
def address(node: KafkaNode) -> str:
    return f"127.0.0.1:{node.guarded_port}"


@pytest.fixture
def client(node: KafkaNode) -> dict:
    """What ``broker.client`` must be."""
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": USER,
        "sasl_plain_password": SECRET,
        "ssl_cafile": str(node.authority),
    }


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """A certificate that has signed nothing here."""
    return certificate(tmp_path_factory.mktemp("stranger"), "stranger", "no-secret")[1]


@pytest.mark.fault(
    "a password sent in the clear, or to a stranger", "the whole job over TLS and SCRAM-SHA-512"
)
def test_a_process_does_the_whole_job_and_shows_the_password_nowhere(tmp_path, address, client):
    world = job.make(tmp_path, address, broker={"client": client})
    world.settings_of_processes = ["log.level=debug"]
    try:
        world.start("all", "all")
        world.annotate()
        world.feed(800)
        world.wait_until_quiet()
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert SECRET not in "\n".join(line for line in listed.splitlines() if "StorageTool" not in line)
        check_all(world)
        assert world.terminate("all") == 0
        shown = subprocess.run(
            [sys.executable, "-m", "stream_al", "config", "show", "--config", str(world.config)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert USER in shown.stdout
        for text in (shown.stdout, shown.stderr, world.told("all")):
            assert SECRET not in text
    finally:
        world.close()


@pytest.mark.parametrize(
    "promise", ["every_record_is_forwarded_once_while_members_come_and_go", "a_value_of_900_kB_comes_back"]
)
def test_the_transport_keeps_its_promises_there(open_broker, topic_name, address, client, promise):
    def make_broker() -> KafkaBroker:
        return open_broker(address, SettledBroker, client=client | {"max_poll_interval_ms": 3_000})

    getattr(TransportContract(), f"test_{promise}")(make_broker, topic_name)


def without(key):
    return lambda client, _: {k: v for k, v in client.items() if k != key}


def with_(**changes):
    return lambda client, _: client | changes


WRONGS = [
    ("another password", with_(sasl_plain_password=WRONG), TopicError, "sasl_plain_password"),
    ("an unknown user", with_(sasl_plain_username="bob"), TopicError, "sasl_plain_username"),
    ("no password", without("sasl_plain_password"), TopicError, "sasl_plain_password"),
    ("a password that is a number", with_(sasl_plain_password=271_828_182), TopicError, "sasl_plain_password"),
    ("another mechanism", with_(sasl_mechanism="PLAIN"), TopicError, "sasl_mechanism"),
    ("a mechanism that is none", with_(sasl_mechanism="SCRAM"), TopicError, "sasl_mechanism"),
    ("no mechanism", without("sasl_mechanism"), TopicError, "sasl_mechanism"),
    ("a protocol that is none", with_(security_protocol="TLS"), TopicError, "security_protocol"),
    ("no TLS, no password", lambda _, __: {}, TopicError, "security_protocol"),
    ("no TLS", with_(security_protocol="SASL_PLAINTEXT"), TopicError, "security_protocol"),
    ("TLS without a password", with_(security_protocol="SSL"), Unavailable, "security_protocol"),
    ("another authority", lambda c, stranger: c | {"ssl_cafile": str(stranger)}, TopicError, "ssl_cafile"),
    ("the machine's authorities", without("ssl_cafile"), TopicError, "ssl_cafile"),
    ("an authority that is not there", with_(ssl_cafile="nowhere.pem"), TopicError, "ssl_cafile"),
    ("an authority that is none", with_(ssl_cafile=__file__), TopicError, "ssl_cafile"),
]  # fmt: skip


@pytest.mark.fault(
    "wrong credentials, certificates, protocols", "connections to a Kafka with TLS and SCRAM-SHA-512"
)
@pytest.mark.parametrize(("change", "error", "names"), [w[1:] for w in WRONGS], ids=[w[0] for w in WRONGS])
def test_what_is_wrong_is_named_and_no_password_shown(
    address, client, stranger, caplog, change, error, names
):
    caplog.set_level("WARNING")
    with pytest.raises(TransportError) as caught:
        KafkaBroker(address, client=change(client, stranger), request_timeout_s=1.5)
    assert isinstance(caught.value, error)
    assert f"broker.client.{names}" in str(caught.value)
    for secret in (SECRET, WRONG, "271828182"):
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"security_protocol": "SASL_SSL", "sasl_mechanism": ["PLAIN"]},
        {"security_protocol": ["SSL"]},
        {"ssl_cafile": "a\0b"},
        {"ssl_cafile": 3},
    ],
)
def test_a_setting_of_the_wrong_type_is_named(wrong):
    with pytest.raises(TopicError, match=rf"broker\.client\.{list(wrong)[-1]}"):
        KafkaBroker("localhost:1", client=wrong)


def test_a_host_the_certificate_is_not_for_is_named(node, client):
    with pytest.raises(TopicError, match=r"another host than broker\.url"):
        KafkaBroker(f"localhost:{node.guarded_port}", client=client, request_timeout_s=1.5)


@pytest.mark.fault(
    "wrong credentials, certificates, protocols", "a service with the wrong password ends at once"
)
def test_a_service_with_the_wrong_password_ends_says_why_and_tried_once(tmp_path, address, client):
    """Who tries again and again locks the account, where accounts can be locked."""
    world = job.make(tmp_path, address, broker={"client": client})
    try:
        written = world.config.read_text()
        world.config.write_text(written.replace(SECRET, WRONG))
        assert world.config.read_text() != written
        world.settings_of_processes = ["log.level=debug"]
        world.start("one", "scorer")
        assert world.ended("one") == 78
        assert "trying again" not in world.told("one")
        assert "sasl_plain_password is wrong" in world.told("one")
        assert WRONG not in world.told("one")
        check = subprocess.run(
            [sys.executable, "-m", "stream_al", "check", "--config", str(world.config)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert check.returncode == 78
        assert "sasl_plain_password is wrong" in check.stdout
        assert WRONG not in check.stdout + check.stderr
    finally:
        world.close()
