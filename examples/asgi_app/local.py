"""Endpoints that only this machine may use."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response]]


def local_only(endpoint: Endpoint) -> Endpoint:
    """Answer 403 to a peer that is not on this machine. Behind a proxy on the same machine everybody is: keep it off there."""

    @functools.wraps(endpoint)
    async def guarded(request: Request) -> Response:
        if not _is_loopback(request.client.host if request.client else ""):
            raise HTTPException(403, "only from this machine")
        return await endpoint(request)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
