"""How clients get to a Kafka that lets in only some: the settings of TLS and SASL, and what a refusal means.

A broker that ends a connection after a wrong password says why in the last bytes before it. kafka-python drops bytes
that come together with the end, keeps no reason of a failed connection, and tries again until a time has passed, as
if nobody were there. ``connections`` mends this: what came is read first, the last reason is kept, and a password
that was refused is not sent again. ``refusal`` turns the reason into what to change; its text never holds a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl import SASL_MECHANISMS
from kafka.net.selector import NetworkSelector

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_PASSWORD = ("sasl_plain_username", "sasl_plain_password")
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")
_FINAL = (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError)


class _Selector(NetworkSelector):  # type: ignore[misc] # kafka has no stubs
    """Lets go of what a wait that ran out held.

    The error of such a wait holds the frames it came through, one of which holds the error: until the garbage collector
    comes by, all that any caller of a ``poll`` without records had in its hands, whole batches, stayed in memory.
    """

    def run(self, coro: Any, *args: Any) -> Any:
        try:
            return super().run(coro, *args)
        except kafka_errors.KafkaTimeoutError as ran_out:
            ran_out.__traceback__ = None  # a fetch under way holds this error, and nothing the new one
            raise kafka_errors.KafkaTimeoutError(*ran_out.args) from None


class _Manager(KafkaConnectionManager):  # type: ignore[misc] # kafka has no stubs
    """Keeps why the last connection failed, and does not knock again where the password was refused."""

    failure: BaseException | None = None

    def get_connection(self, node_id: Any, *args: Any, **options: Any) -> Any:
        if isinstance(self.failure, _FINAL) and self.cluster.is_bootstrap(node_id):
            raise self.failure
        had = self._conns.get(node_id)
        connection = super().get_connection(node_id, *args, **options)
        if connection is not had:
            connection.init_future.add_both(self._note)
            connection.close_future.add_errback(self._note)
        return connection

    def _note(self, outcome: object) -> None:
        self.failure = outcome if isinstance(outcome, BaseException) else None

    async def _build_transport(self, *args: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*args, **options)
        receive = transport._sock_recv  # noqa: SLF001

        def what_came_first() -> tuple[bytes, BaseException | None]:
            data, end = receive()
            return data, None if data else end  # the end comes again

        transport._sock_recv = what_came_first  # noqa: SLF001
        return transport


def connections(**options: Any) -> Any:
    """Return what kafka-python's clients take as ``kafka_client``."""
    net = _Selector(**options)
    return KafkaNetClient(net=net, manager=_Manager(net, **options), **options)


def refusal(connected: Any) -> tuple[str, bool]:
    """Say what to change after the last failed connection, and whether that is certain; "" if nothing is known.

    It is certain where the broker or the certificate said so. A connection that is just ended may also be that of a
    broker that ends.
    """
    manager = connected._manager  # noqa: SLF001
    failure, text = manager.failure, _shown(manager.failure)
    protocol = manager.config["security_protocol"]
    if isinstance(failure, kafka_errors.SaslAuthenticationFailedError):
        by_password = manager.config["sasl_mechanism"] in _BY_PASSWORD
        keys = (
            " or ".join(f"broker.client.{key}" for key in _PASSWORD)
            if by_password
            else "broker.client.sasl_*"
        )
        return f"{keys} is wrong: {text}", True
    if isinstance(failure, kafka_errors.UnsupportedSaslMechanismError):
        return f"broker.client.sasl_mechanism is {manager.config['sasl_mechanism']}: {text}", True
    if "Hostname mismatch" in text or "IP address mismatch" in text:
        return (
            f"the broker's certificate is for another host than broker.url or advertised.listeners: {text}",
            True,
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"broker.client.ssl_cafile does not hold who signed the broker's certificate: {text}", True
    if isinstance(failure, ssl.SSLError):
        return (
            f"broker.client.ssl_cafile, ssl_certfile, ssl_keyfile or ssl_password is of no use: {text}",
            True,
        )
    if isinstance(failure, kafka_errors.InvalidReceiveError):
        return (
            f"broker.client.security_protocol is {protocol}, and what answers speaks something else, TLS perhaps",
            True,
        )
    if "Handshake failed" in text or "socket disconnected" in text:
        hint = f"broker.client.security_protocol is {protocol}, which the broker's listener does not speak"
        return f"connections are ended at once: the broker is about to end, or {hint}", False
    return "", False


def _shown(failure: BaseException | None) -> str:
    """Return the text of an error without the names of classes before it."""
    return str(failure or "").rsplit("Error: ", 1)[-1]


def problems(client: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the settings of TLS and SASL in themselves: each by its name, no secret."""
    found = []
    protocol = client.get("security_protocol", "PLAINTEXT")
    if protocol not in _PROTOCOLS:
        found.append(f"security_protocol: {protocol!r} is none of {', '.join(_PROTOCOLS)}")
    elif protocol.startswith("SASL"):
        found += _sasl_problems(client)
    for key in _FILES:
        if client.get(key) is not None:
            try:
                Path(client[key]).open("rb").close()
            except (OSError, TypeError, ValueError) as problem:
                found.append(f"{key}: {problem}")
    return found


def _sasl_problems(client: Mapping[str, Any]) -> list[str]:
    mechanism = client.get("sasl_mechanism")
    if mechanism not in tuple(SASL_MECHANISMS):  # it may be anything, a list too
        return [f"sasl_mechanism: {mechanism!r} is none of {', '.join(sorted(SASL_MECHANISMS))}"]
    if mechanism not in _BY_PASSWORD:
        return []
    return [
        f"{key} is missing, or no text: a number is written in quotes"
        for key in _PASSWORD
        if not isinstance(client.get(key), str) or not client[key]
    ]
