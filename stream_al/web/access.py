"""Who may use the desk: people with a token, or, where nobody is named, whoever sits at this machine.

A token travels in the ``Authorization`` header and never in a cookie, so no other site can use it. Without tokens the
browser itself is what another site could use: requests that it makes for one are refused, and so are those for a host
name that is not this machine's, behind which another site may hide.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from stream_al.config import Settings

NAME = re.compile(r"[a-zA-Z0-9._@-]{1,64}")
UNNAMED = "annotator"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    role: Literal["annotator", "owner"]

    @property
    def owner(self) -> bool:
        return self.role == "owner"


@dataclass(frozen=True, slots=True)
class Denied:
    """Why somebody may not: 401 without a valid token, 403 otherwise."""

    status: Literal[401, 403]
    why: str


class Access:
    """Decides who asks.

    Parameters
    ----------
    settings
        ``desk.people``, and ``http.host``: an open address needs people.
    """

    def __init__(self, settings: Settings) -> None:
        self.people = settings.desk.people
        self.local = is_local(settings.http.host)

    def who(self, method: str, headers: Mapping[str, str]) -> Caller | Denied:
        """Return who asks, or why that one may not."""
        if method not in SAFE and _foreign(headers):
            return Denied(403, "this request was made by another site")
        if self.people:
            return self._by_token(headers.get("authorization", ""))
        if not self.local:
            return Denied(403, "http.host is open to the network: name those who may answer in desk.people")
        if not is_local(_host(headers)):
            return Denied(
                403, "without desk.people the label page is for http://127.0.0.1 and localhost only"
            )
        name = headers.get("x-annotator", UNNAMED)
        return Caller(name if NAME.fullmatch(name) else UNNAMED, "owner")

    def _by_token(self, authorization: str) -> Caller | Denied:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
        found = None
        for name, person in self.people.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, person.token.encode()):
                found = Caller(name, person.role)
        return found or Denied(401, "a token is needed; whoever runs the desk gives you one")


def is_local(host: str) -> bool:
    """Say whether a host name is this machine's own.

    >>> [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host(headers: Mapping[str, str]) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _foreign(headers: Mapping[str, str]) -> bool:
    """Say whether a browser makes this request for another site."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in {"same-origin", "none"}
    return origin is not None and origin.partition("://")[2] != headers.get("host", "")
