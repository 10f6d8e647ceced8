"""A WSGI request as a call."""

from __future__ import annotations

from collections.abc import Mapping

from resilience.edges import InboundCall
from resilience.integrations.wsgi.types import Environ

_PREFIX = "HTTP_"


class RequestCall(InboundCall):
    """One HTTP request."""

    __slots__ = ("environ",)

    def __init__(self, environ: Environ) -> None:
        super().__init__("the request")
        self.environ = environ

    @property
    def carrier(self) -> Mapping[str, str]:
        return {
            key.removeprefix(_PREFIX).replace("_", "-").lower(): value
            for key, value in self.environ.items()
            if key.startswith(_PREFIX)
        }

    def peer(self) -> str | None:
        return self.environ.get("REMOTE_ADDR") or None  # empty for a Unix socket

    def headers(self, name: str) -> list[str]:
        """The value of a header; a server has joined by commas what came more than once."""
        value = self.environ.get(environ_key(name))
        return [] if value is None else [value]

    def host(self) -> str | None:
        host: str | None = self.environ.get("HTTP_HOST")
        return host

    def method(self) -> str | None:
        method: str = self.environ["REQUEST_METHOD"]
        return method


def own_path(environ: Environ) -> str:
    """The path within the application, as text: servers hand over its bytes as if they were Latin-1."""
    path: str = environ.get("PATH_INFO", "")
    if path.isascii():
        return path
    try:
        return path.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:  # a server that hands over text, against PEP 3333
        return path


def environ_key(name: str) -> str:
    """Where the environment has the header `name`. `Content-Type` and `Content-Length` have no prefix there."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else _PREFIX + key


def inbound_headers(environ: Environ, keys: Mapping[str, str]) -> list[tuple[str, str]]:
    """Those headers that came in of the ones that `keys` names by their places; one that came more than once gives each value."""
    return [(name, part.strip(" \t")) for key, name in keys.items() if key in environ for part in environ[key].split(",")]
