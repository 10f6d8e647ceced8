"""The payment service: what the order service depends on. Its faults are switched on and off while it runs.

Start it with `uvicorn --factory examples.asgi_app.payments:create_app --port 8001`; break it with
`curl -X PUT localhost:8001/faults -d '{"mode": "fail"}'`.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from enum import Enum
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.asgi_app.local import local_only

LARGEST_AMOUNT_CENTS: Final = 1_000_000
"""A charge above is declined."""
_SLOW_S: Final = 0.3
_HANG_S: Final = 30.0
_CHARGES_KEPT: Final = 10_000


class Fault(Enum):
    """What is wrong with the service. Its values are the modes of `PUT /faults`."""

    NONE = "none"
    FAIL = "fail"  # answers 503 at once
    SLOW = "slow"  # answers after 0.3 s
    HANG = "hang"  # does not answer until the fault is taken back, or for 30 s


class Payments:
    """Charges made so far, each once however often it is asked for, and the fault that is switched on."""

    def __init__(self) -> None:
        self._charges: OrderedDict[str, dict[str, object]] = OrderedDict()
        self._fault = Fault.NONE
        self._fault_changed = asyncio.Event()

    async def charge(self, request: Request) -> Response:
        """`POST /charges` with an Idempotency-Key: 201, or 402 when the amount is too large."""
        if not await self._is_well():
            return JSONResponse({"error": "out of order"}, 503)
        key = request.headers.get("idempotency-key", "")
        if not key:
            raise HTTPException(400, "Idempotency-Key is missing: without it a retry would charge twice")
        amount_cents = int((await request.json())["amount_cents"])
        if amount_cents > LARGEST_AMOUNT_CENTS:
            return JSONResponse({"error": "declined"}, 402)
        charge = self._charges.setdefault(key, {"charge": key, "amount_cents": amount_cents})
        if len(self._charges) > _CHARGES_KEPT:
            self._charges.popitem(last=False)
        return JSONResponse(charge, 201)

    async def _is_well(self) -> bool:
        """Suffer the fault. False: the answer is 503."""
        if self._fault is Fault.SLOW:
            await asyncio.sleep(_SLOW_S)
        elif self._fault is Fault.HANG:
            try:
                await asyncio.wait_for(self._fault_changed.wait(), _HANG_S)
            except TimeoutError:
                return False
        return self._fault is not Fault.FAIL

    async def set_fault(self, request: Request) -> Response:
        """`PUT /faults` with a mode: none, fail, slow or hang."""
        try:
            fault = Fault(json.loads(await request.body())["mode"])
        except (ValueError, KeyError, TypeError):
            modes = ", ".join(fault.value for fault in Fault)
            raise HTTPException(400, f'the body must be {{"mode": ...}} with one of {modes}') from None
        self._fault = fault
        self._fault_changed.set()
        self._fault_changed = asyncio.Event()
        return JSONResponse({"mode": fault.value})


async def is_up(request: Request) -> Response:
    """`GET /healthz`: 200 also while a fault is switched on; this service is what is broken, not its process."""
    return JSONResponse({"status": "up"})


def create_app() -> Starlette:
    """Make the payment service."""
    payments = Payments()
    return Starlette(
        routes=[
            Route("/healthz", is_up),
            Route("/charges", payments.charge, methods=["POST"]),
            Route("/faults", local_only(payments.set_fault), methods=["PUT"]),
        ]
    )
