"""The status of the middleware at a path of the application's, for those who have the token."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from typing import Any, Final

from resilience.edges import Answer
from resilience.integrations.asgi.request import send_answer
from resilience.integrations.asgi.types import Receive, Scope, Send
from resilience.integrations.asgi.websocket import DENIAL

SHORTEST_TOKEN: Final = 16
_TOKEN: Final = re.compile(r"[!-~]+")
_PATH: Final = re.compile(r"/[^?#\s]*")
_NEW_TOKEN: Final = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
_METHODS: Final = ("GET", "HEAD")
_POLICY_VIOLATION: Final = 1008
_NO_STORE: Final = ("cache-control", "no-store")
Status = Callable[[], dict[str, Any]]


class StatusPage:
    """Serves a status as JSON at one path, to requests with `Authorization: Bearer TOKEN`.

    There is no rule of addresses: behind a proxy on the same host every client looks local. Any other request for the path is
    answered 401 with `WWW-Authenticate: Bearer` (RFC 9110, section 11.6.1; RFC 6750), the same whatever is wrong, so that nothing
    is learned from it. It is not passed on to the application as if there were no such path: that would hand a token with a slip in
    it to code that may log it or send it on, and would tell an operator with the wrong token that there is no page. What must be
    kept secret is the token, not the path. A wrong method is told only to those who have the token.

    Of the token only a hash is kept, so nothing can show it later.

    Args:
        path: the path within the application, as routes see it.
        token: at least 16 printable ASCII characters without a space.

    Raises:
        ValueError: the path is none, or the token is too short or cannot be sent in a header.
    """

    __slots__ = ("_digest", "path")

    def __init__(self, path: str, token: str) -> None:
        if _PATH.fullmatch(path) is None:
            raise ValueError(f"status_path: must be a path such as /-/resilience, without query and fragment, got {path!r}")
        if len(token) < SHORTEST_TOKEN:
            raise ValueError(f"status_token: must have at least {SHORTEST_TOKEN} characters; make one with: {_NEW_TOKEN}")
        if _TOKEN.fullmatch(token) is None:
            raise ValueError(
                "status_token: must be printable ASCII without spaces, or no header can carry it; "
                "one that was read from a file may have a line end at its end"
            )
        self.path = path
        self._digest = _digest(token.encode("ascii"))

    @classmethod
    def of(cls, path: str | None, token: str | None) -> StatusPage | None:
        """The page, or None where neither path nor token is given.

        Raises:
            ValueError: one is given without the other, or one of them is not as it must be.
        """
        if path is not None and token is not None:
            return cls(path, token)
        if path is not None:
            raise ValueError(f"status_path needs a status_token, or anybody could read it; make one with: {_NEW_TOKEN}")
        if token is not None:
            raise ValueError("status_token needs a status_path, such as /-/resilience, at which the status is served")
        return None

    async def answer(self, scope: Scope, send: Send, status: Status) -> None:
        """Answer a request for `path` with what `status` returns. The request's body is not read."""
        answer = self._answer_to(scope, status)
        if scope["method"] == "HEAD":
            answer = Answer(answer.status, answer.headers, b"")  # with the length of the body that GET would get
        await send_answer(send, answer)

    def _answer_to(self, scope: Scope, status: Status) -> Answer:
        if not self._lets_in(scope):
            return _problem(401, "Unauthorized", ("www-authenticate", 'Bearer realm="resilience"'))
        if scope["method"] not in _METHODS:
            return _problem(405, "Method Not Allowed", ("allow", ", ".join(_METHODS)))
        return _json(200, "application/json", status())

    def _lets_in(self, scope: Scope) -> bool:
        """Whether a request has the token, in one header and no other: of several, nobody can say which counts."""
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return hmac.compare_digest(_digest(token.strip(b" ")), self._digest) and scheme.lower() == b"bearer"

    def __repr__(self) -> str:
        return f"StatusPage({self.path!r})"


async def deny_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Close a websocket at the status path before it is accepted: the application is not to see the token of one that came astray.

    The answer is the same with the token and without. Where the server cannot send it, it is a close (RFC 6455, section 7.4.1).
    """
    await receive()  # the server's websocket.connect
    if DENIAL in (scope.get("extensions") or {}):
        await send_answer(send, _problem(404, "Not Found"), "websocket.http")
    else:
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "no websocket here"})


def _digest(token: bytes) -> bytes:
    """What is compared: of one length, whatever was sent."""
    return hashlib.sha256(token).digest()


def _problem(status: int, title: str, *headers: tuple[str, str]) -> Answer:
    return _json(status, "application/problem+json", {"type": "about:blank", "title": title, "status": status}, *headers)


def _json(status: int, content_type: str, document: dict[str, Any], *headers: tuple[str, str]) -> Answer:
    body = json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"
    length = ("content-length", str(len(body)))
    return Answer(status, (("content-type", content_type), length, _NO_STORE, *headers), body)
