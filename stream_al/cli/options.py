"""Options that every verb has, and what they lead to: settings and a broker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stream_al.config import Settings
    from stream_al.transport.port import Broker

CONFIG = Path("config.yaml")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read the settings from FILE; without it from config.yaml in this directory, if there is one.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one key, as in budget.per_hour=10; may be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def examples(*commands: str) -> str:
    """Return an epilog that shows commands; the reference reads it back."""
    return "\n\n".join(["Examples:", *(f"$ {command}" for command in commands)])


def settings_of(config: Path | None, overrides: list[str] | None, *, level: str = "warning") -> Settings:
    """Read the settings, and let logs of at least ``level`` go to standard error.

    Raises
    ------
    ConfigError
    """
    from stream_al.config import load
    from stream_al.logs import configure

    if config is None and CONFIG.exists():
        config = CONFIG
    _refuse_secrets(overrides or ())
    settings = load(config, overrides or ())
    configure(settings.log.level if level == "settings" else level, settings.log.format)
    if level != "settings":  # of a client's trouble a tool says one line itself
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    return settings


def _refuse_secrets(overrides: Sequence[str]) -> None:
    """Refuse secrets after ``--set``: everybody on the machine can read command lines."""
    from stream_al.config_source import ConfigError, from_assignment, secret_keys

    for text in overrides:
        try:
            written = from_assignment(text).value
        except ConfigError:  # said with all other problems
            continue
        for key in secret_keys(written):
            variable = "STREAM_AL_" + key.upper().replace(".", "__")
            raise ConfigError(
                f"--set {key}: every user of this machine can read a command line;"
                f" write the secret into the environment ({variable}) or the file"
            )


def attach(settings: Settings) -> Broker:
    """Open the broker to look at it: nothing is created.

    Raises
    ------
    Unavailable, TransportError
    """
    from stream_al.transport import connect
    from stream_al.transport.port import TransportError

    b = settings.broker
    file = log_file(settings)
    if file is not None and not file.exists():
        raise TransportError(
            f"{file} does not exist: nothing was written to this log yet;"
            f" broker.url is from {settings.where('broker.url')}"
        )
    options = {
        "session_timeout_ms": b.session_timeout_ms,
        "transaction_timeout_ms": b.transaction_timeout_ms,
        "client": b.client,
    }
    return connect(b.url, options)


def log_file(settings: Settings) -> Path | None:
    """Return the file of the embedded log; None for another broker."""
    scheme, _, rest = settings.broker.url.partition("://")
    return Path(rest) if scheme == "embedded" and rest != ":memory:" else None


def no_topic(settings: Settings, topic: str) -> str:
    """Return what to say of a topic that is not there: which one may have been meant."""
    from difflib import get_close_matches

    names = settings.topics.model_dump()
    known = [*(role.replace("_", "-") for role in names), *names.values()]
    near = get_close_matches(topic, known, n=1)
    if near:
        return f"there is no topic {topic}; did you mean {near[0]}?"
    return f"there is no topic {topic}; those of the settings are {', '.join(names.values())}"


def topic_name(settings: Settings, topic: str) -> str:
    """Return the topic that a role (``labels-requested``, ...) has in the settings, or the name itself."""
    role = topic.replace("-", "_")
    return str(getattr(settings.topics, role)) if role in type(settings.topics).model_fields else topic
