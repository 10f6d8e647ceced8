"""A WSGI request as a call."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

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


@lru_cache(maxsize=64)
def _keys_of(names: frozenset[bytes]) -> dict[str, str]:
    """The headers of these names, by where the environment has them."""
    return {environ_key(name.decode("ascii")): name.decode("ascii") for name in names}


def inbound_headers(environ: Environ, names: frozenset[bytes]) -> list[tuple[str, str]]:
    """Those headers of `names` that came in; one that came more than once gives each of its values."""
    keys = _keys_of(names)
    if environ.keys().isdisjoint(keys):  # nearly always
        return []
    return [(keys[key], part.strip(" \t")) for key in keys if key in environ for part in environ[key].split(",")]
