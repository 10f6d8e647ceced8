"""Guard a bare ASGI app with the installed package: `python -I guard_an_app.py [CHECKOUT]`.

Run in an environment that holds the wheel and its own dependencies only, in an empty folder. CHECKOUT is a folder that
nothing may be imported from.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import resilience
from resilience.integrations.asgi import ResilienceMiddleware

Message = MutableMapping[str, Any]

CONFIG = """\
version: 1
limiters:
  api: {rate: 1/m, burst: 1}
pipelines:
  api: [{limiter: api}]
routes:
  - {match: {path: "/**"}, pipeline: api}
"""


def require(condition: object, message: str) -> None:
    """End with `message` unless `condition` holds."""
    if not condition:
        sys.exit(f"smoke test: {message}")


async def bare_app(scope: Message, receive: Any, send: Any) -> None:
    """Answer every request with 200."""
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def get(app: Any) -> tuple[int, dict[str, str], bytes]:
    """Send one GET request to `app` and read its answer."""
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/orders",
        "raw_path": b"/orders",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


async def guard(config: Path) -> None:
    """Start the guarded app, call it until it refuses, and stop it."""
    app = ResilienceMiddleware(bare_app, config=str(config))
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, incoming.get, outgoing.put))
    await incoming.put({"type": "lifespan.startup"})
    started = await outgoing.get()
    require(started["type"] == "lifespan.startup.complete", f"the app did not start: {started}")

    status, _, body = await get(app)
    require((status, body) == (200, b"hello"), f"the first request was answered {status} {body!r}, not 200")
    status, headers, body = await get(app)
    require(status == 429, f"the second request was answered {status} {body!r}, not 429")
    require(headers["content-type"] == "application/problem+json", f"the refusal is a {headers['content-type']}")
    require(json.loads(body)["type"].endswith("#quota-exceeded"), f"the refusal's body is {body!r}")
    require(int(headers["retry-after"]) > 0, f"Retry-After is {headers['retry-after']}")

    await incoming.put({"type": "lifespan.shutdown"})
    stopped = await outgoing.get()
    require(stopped["type"] == "lifespan.shutdown.complete", f"the app did not stop: {stopped}")
    await lifespan


def check_origin(checkout: Path | None) -> None:
    """The package is the installed one, and the folder of the checkout was not installed as a package of its own."""
    where = Path(resilience.__file__).resolve()
    require(checkout is None or not where.is_relative_to(checkout.resolve()), f"resilience was imported from {where}")
    require(importlib.util.find_spec("integrations") is None, "there is a top-level package called integrations")
    require((where.parent / "py.typed").is_file(), "py.typed is missing")
    installed = importlib.metadata.version("resilience-middleware")
    require(installed == resilience.__version__, f"{installed} is installed and says that it is {resilience.__version__}")


def main() -> None:
    """Check where the package comes from, and use it."""
    check_origin(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    config = Path("smoke.yaml")
    config.write_text(CONFIG, encoding="utf-8")
    try:
        asyncio.run(asyncio.wait_for(guard(config), timeout=30))
    finally:
        config.unlink()
    print("smoke test: the installed wheel admitted one request and refused the next")


if __name__ == "__main__":
    main()
