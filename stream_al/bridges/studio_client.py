"""Label Studio's HTTP API: one call at a time, and what it means when one fails.

Errors, one class per reaction of the caller:

===========  ==========================================================================================
``Away``     no answer, or one that will be another soon; whether the call was carried out is not known
``Refused``  this call will be refused again: with status 500 perhaps after a part of it was done
``Denied``   nothing will work before somebody changes the settings, or what stands there
===========  ==========================================================================================

Two kinds of tokens exist: *legacy* ones are shown as they are; a *personal access token* is a JWT that only
buys others, which last five minutes.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any

TIMEOUT_S = 10.0
LARGEST_ANSWER = 256 * 1024 * 1024
LONGEST_REASON = 300
FOR_NOW = frozenset({408, 425, 429, 502, 503, 504})
JWT_BEGINS = "eyJ"  # a JSON object in base64


class Away(Exception):  # noqa: N818  named for the caller's reaction, as the two below
    """Label Studio cannot be asked for now."""


class Refused(Exception):  # noqa: N818
    """Label Studio does not do what was asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status


class Denied(Exception):  # noqa: N818
    """Label Studio does nothing for us until an operator acts; ``token`` says whether that is what is wrong."""

    def __init__(self, reason: str, *, token: bool = False) -> None:
        super().__init__(reason)
        self.token = token


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the token would be shown to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


class StudioClient:
    """Calls one Label Studio.

    Parameters
    ----------
    url
        Its address, without a slash at the end.
    token
        Of either kind; it appears in no message.
    timeout_s
        Seconds without a byte after which it counts as away.
    """

    def __init__(self, url: str, token: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url, self._token, self.timeout_s = url, token, timeout_s
        self._access = ""
        self.server_ms = (
            0  # Label Studio's clock at its last answer, in milliseconds since the epoch; 0: not known
        )
        self._opener = urllib.request.build_opener(_Stay)

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        """Return what stands there.

        Raises
        ------
        Away, Refused, Denied
        """
        return self.call("GET", path + (f"?{urllib.parse.urlencode(query)}" if query else ""))

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Make one call with a JSON body and return the answer's; None where it has none.

        Raises
        ------
        Away, Refused, Denied
        """
        if not self._token.startswith(JWT_BEGINS):
            return self._send(method, path, body, f"Token {self._token}")
        for again in (False, True):
            if not self._access or again:
                self._renew()
            try:
                return self._send(method, path, body, f"Bearer {self._access}")
            except Denied:
                if again:
                    raise
        raise AssertionError

    def _renew(self) -> None:
        wanted = json.dumps({"refresh": self._token}).encode()
        self._access = str(_mapping(self._send("POST", "/api/token/refresh/", wanted)).get("access", ""))

    def _send(self, method: str, path: str, body: bytes | None, authorization: str | None = None) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310  http or https by the settings
        try:
            with self._opener.open(request, timeout=self.timeout_s) as answer:
                self._note_time(answer.headers.get("Date"))
                return self._read(answer.read(LARGEST_ANSWER + 1))
        except urllib.error.HTTPError as error:
            with error:
                raise self._meaning(error) from None
        except (OSError, HTTPException) as error:
            raise self._unreached(error) from None

    def _read(self, text: bytes) -> Any:
        if len(text) > LARGEST_ANSWER:
            raise Away(f"{self.url} answers more than {LARGEST_ANSWER} bytes")
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError):
            raise Denied(f"{self.url} is no Label Studio: it does not answer in JSON") from None

    def _note_time(self, date: str | None) -> None:
        try:
            self.server_ms = round(parsedate_to_datetime(date).timestamp() * 1000) if date else 0
        except ValueError:
            self.server_ms = 0

    def _meaning(self, error: urllib.error.HTTPError) -> Exception:
        status = error.code
        if status in FOR_NOW:
            return Away(f"{self.url} answers {status} {error.reason}")
        if 300 <= status < 400:
            to = urllib.parse.urlsplit(error.headers.get("Location") or "")
            return Denied(f"{self.url} sends elsewhere, to {to.scheme}://{to.netloc}; write that address")
        try:
            reason = _reason(error.read(LARGEST_ANSWER))
        except (OSError, HTTPException):
            reason = ""
        reason = reason or str(error.reason)
        if status == 401:
            return Denied(f"{self.url} does not accept the token ({reason})", token=True)
        if status == 403:
            return Denied(f"{self.url} forbids this to the token's owner ({reason})", token=True)
        return Refused(status, reason)

    def _unreached(self, error: Exception) -> Exception:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(why, ssl.SSLCertVerificationError):
            return Denied(
                f"{self.url} shows a certificate that is not trusted ({why.verify_message}); SSL_CERT_FILE names those"
                " that are"
            )
        if isinstance(why, TimeoutError):
            return Away(f"{self.url} did not answer in {self.timeout_s:g} s")
        text = why.strerror if isinstance(why, OSError) and why.strerror else str(why) or type(why).__name__
        return Away(f"{self.url} cannot be reached ({text})")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _reason(text: bytes) -> str:
    """Return what Label Studio complains about, without the task that it quotes."""
    try:
        said = _mapping(json.loads(text))
    except (ValueError, RecursionError):
        return ""
    found = [*_texts(said.get("validation_errors")), *_texts(said.get("detail"))]
    return "; ".join(reason.partition(" :: ")[0] for reason in found[:3])[:LONGEST_REASON]


def _texts(value: object) -> list[str]:
    """Return the texts in nested lists and mappings."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _texts(item)]
