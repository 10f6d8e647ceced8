"""ASGI by hand: one request to an application, message by message, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")
Message = MutableMapping[str, Any]
App = Callable[..., Coroutine[Any, Any, None]]


class Conversation:
    """One request or handshake: `start` it, `await` its `task`, look at `sent`.

    gone: what `send` raises once the client has gone, as ASGI 2.4 asks of servers; None: it takes what it is given.
    """

    def __init__(
        self,
        app: Any,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        kind: str = "http",
        client: str | None = "127.0.0.1",
        extensions: Iterable[str] = (),
        spec_version: str = "2.3",
    ) -> None:
        self.app = app
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "scheme": {"http": "http", "websocket": "ws"}.get(kind),
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), *((name.encode(), value.encode("latin-1")) for name, value in headers)],
            "client": None if client is None else (client, 50_000),
            "server": ("127.0.0.1", 80),
            "extensions": {name: {} for name in extensions},
        }
        if kind == "http":
            self.scope["method"] = method
        else:
            self.scope["subprotocols"] = []
        self.sent: list[Message] = []
        self.gone: BaseException | None = None
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        first: Message = {"type": "websocket.connect"}
        if kind == "http":
            first = {"type": "http.request", "body": b"", "more_body": False}
        self.incoming.put_nowait(first)
        self.task: asyncio.Task[None]

    async def receive(self) -> Message:
        """The server's side of `receive`."""
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        """The server's side of `send`: notes the message as it is now."""
        if self.gone is not None:
            raise self.gone
        self.sent.append({**message, **({"headers": list(message["headers"])} if "headers" in message else {})})

    def start(self) -> Conversation:
        """Let the application run in a task of its own."""
        self.task = asyncio.get_running_loop().create_task(self.app(self.scope, self.receive, self.send))
        return self

    def disconnect(self) -> None:
        """The client goes away."""
        kind = "http.disconnect" if self.scope["type"] == "http" else "websocket.disconnect"
        self.incoming.put_nowait({"type": kind, "code": 1006})

    async def run(self) -> Conversation:
        """From the request to the application's end."""
        await self.start().task
        return self

    @property
    def status(self) -> int | None:
        """The status of the response, or None where none was begun."""
        starts = [message for message in self.sent if message["type"].endswith("response.start")]
        assert len(starts) <= 1, f"the response was begun {len(starts)} times"
        return starts[0]["status"] if starts else None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response, as they were sent."""
        start = next(message for message in self.sent if message["type"].endswith("response.start"))
        return [(name.decode(), value.decode()) for name, value in start.get("headers", ())]

    def header(self, name: str) -> str | None:
        """The value of one header of the response; it must not be there twice."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        """The body as far as it was sent."""
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_complete(self) -> bool:
        """Whether the last body was sent."""
        return any(message["type"].endswith("response.body") and not message.get("more_body") for message in self.sent)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run `scenario` on a new event loop, and see that it leaves no task behind."""

    async def watched() -> T:
        result = await scenario
        await turns()  # generators that were given up are closed by tasks of the loop
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"left behind: {left}"
        return result

    return asyncio.run(watched())


async def turns(count: int = 20) -> None:
    """Let the other tasks of the loop run on as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)
