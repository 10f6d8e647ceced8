"""The price service: forty of its answers make one page. Some of its items can be made slow or broken while it runs.

Start it with `uvicorn --factory examples.asgi_app.prices:create_app --port 8002`; trouble it with
`curl -X PUT localhost:8002/faults -d '{"slow": ["item-3"], "broken": ["item-5"]}'`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.asgi_app.local import local_only

ITEMS: Final = tuple(f"item-{number}" for number in range(1, 41))
"""What there is to buy."""
_SLOW_S: Final = 5.0


class Prices:
    """What everything costs, and what is wrong."""

    def __init__(self) -> None:
        self._slow: frozenset[str] = frozenset()
        self._broken: frozenset[str] = frozenset()

    async def price(self, request: Request) -> Response:
        """`GET /prices/{item}`: 200, or 404 for what nobody sells."""
        item = request.path_params["item"]
        if item not in ITEMS:
            raise HTTPException(404, "nobody sells that")
        if item in self._slow:
            await asyncio.sleep(_SLOW_S)
        if item in self._broken:
            return JSONResponse({"error": "out of order"}, 503)
        return JSONResponse({"item": item, "cents": 100 * (ITEMS.index(item) + 1)})

    async def set_faults(self, request: Request) -> Response:
        """`PUT /faults` with the items that are slow and those that are broken."""
        try:
            faults = json.loads(await request.body())
            slow, broken = frozenset(faults.get("slow", ())), frozenset(faults.get("broken", ()))
        except (ValueError, TypeError, AttributeError):
            raise HTTPException(400, 'the body must be {"slow": [...], "broken": [...]}') from None
        self._slow, self._broken = slow & set(ITEMS), broken & set(ITEMS)
        return JSONResponse({"slow": sorted(self._slow), "broken": sorted(self._broken)})


async def is_up(request: Request) -> Response:
    """`GET /healthz`."""
    return JSONResponse({"status": "up"})


def create_app() -> Starlette:
    """Make the price service."""
    prices = Prices()
    return Starlette(
        routes=[
            Route("/healthz", is_up),
            Route("/prices/{item}", prices.price),
            Route("/faults", local_only(prices.set_faults), methods=["PUT"]),
        ]
    )
