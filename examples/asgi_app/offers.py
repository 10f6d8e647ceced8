"""The page of offers: forty prices, each a call of its own, within 300 ms, whatever becomes of some of them."""

from __future__ import annotations

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from examples.asgi_app.prices import ITEMS
from resilience import PipelineHandle
from resilience.batch import BatchCaller, BatchFailed
from resilience.integrations.httpx.batch import HttpxBackend

PAGE_S = 0.3
"""How long a page may take."""


class Offers:
    """The page, and the way to the price service."""

    def __init__(self, prices: PipelineHandle, client: httpx.AsyncClient) -> None:
        self._prices = HttpxBackend(client, prices, name="prices")
        self._batch = BatchCaller("offers", concurrency=len(ITEMS), timeout_s=PAGE_S)

    async def page(self, request: Request) -> Response:
        """`GET /offers`: what is known in time, and what is missing and why. 502 where nothing is known."""
        results = await self._batch.acall(self._prices, [f"/prices/{item}" for item in ITEMS])
        results.raise_if_all_failed()
        missing = {item: result.kind.value for item, result in zip(ITEMS, results, strict=True) if not result.ok}
        return JSONResponse({"offers": [response.json() for response in results.values()], "missing": missing})


async def no_offers(request: Request, error: Exception) -> Response:
    """Not one price could be had."""
    told = str(error) if isinstance(error, BatchFailed) else "no prices"
    return JSONResponse({"error": told}, 502)
