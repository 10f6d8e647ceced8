"""An ASGI request as a call, and answers as ASGI messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from resilience.edges import Answer, InboundCall
from resilience.integrations.asgi.types import Message, Scope, Send


class RequestCall(InboundCall):
    """One HTTP request or websocket handshake. Its name is what it is, not what the client sent."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        super().__init__("the request")
        self.scope = scope

    @property
    def carrier(self) -> Mapping[str, str]:
        return dict(text_headers(self.scope))

    def peer(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    def headers(self, name: str) -> list[str]:
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == wanted]

    def host(self) -> str | None:
        hosts = self.headers("host")
        return hosts[0] if hosts else None

    def method(self) -> str | None:
        method: str = self.scope.get("method", "GET")
        return method


def own_path(scope: Scope) -> str:
    """The path within the application: servers and mounts hand over `root_path` as the beginning of `path`."""
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    if root:
        rest = path.removeprefix(root.rstrip("/"))
        if rest.startswith("/") or not rest:
            return rest
    return path


def text_headers(scope: Scope) -> Iterator[tuple[str, str]]:
    """The request's headers as text, names in lower case."""
    for name, value in scope["headers"]:
        yield name.decode("latin-1"), value.decode("latin-1")


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def send_answer(send: Send, answer: Answer, prefix: str = "http") -> None:
    """Send a whole response: "http", or "websocket.http" for a handshake that is denied."""
    start: Message = {"type": f"{prefix}.response.start", "status": answer.status, "headers": encoded(answer.headers)}
    await send(start)
    await send({"type": f"{prefix}.response.body", "body": answer.body})
