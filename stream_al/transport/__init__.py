"""Brokers behind one port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_al.transport.port import Broker


def connect(url: str, options: Mapping[str, Any] | None = None) -> Broker:
    """Open the broker that ``url`` names: ``embedded:///path/log.db``, ``embedded://:memory:`` or ``kafka://host:9092``.

    Raises
    ------
    ValueError
        The scheme is unknown.
    TopicError
        The client library is not installed.
    Unavailable
        The broker does not answer.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "embedded":
        from stream_al.transport.embedded import EmbeddedBroker  # noqa: PLC0415

        return EmbeddedBroker(rest, **(options or {}))
    if scheme == "kafka":
        given = dict(options or {})
        client = dict(given.pop("client", None) or {})
        if client.pop("library", None) == "confluent":
            from stream_al.transport.confluent import ConfluentBroker  # noqa: PLC0415  (an extra)

            return ConfluentBroker(rest, client=client, **given)
        from stream_al.transport.kafka import KafkaBroker  # noqa: PLC0415  (kafka-python costs 0.15 s)

        return KafkaBroker(rest, client=client, **given)
    raise ValueError(f"broker.url: {url!r} is neither embedded:///path/log.db nor kafka://host:9092")
