"""What the inventory does, whatever server runs it: messages in, messages out, and statuses for what it refuses."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import grpc

from examples.grpc_service.stubs import protos

IN_STOCK: Final = {"tea": 1_000_000, "coffee": 1_000_000, "sugar": 3}
_RESERVATIONS_KEPT: Final = 10_000
_LONGEST_ID: Final = 100


class Refused(Exception):
    """A request that cannot be met. Its text is for the client."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Inventory:
    """What is left of each item, and the reservations made last; those before count as sold. Threads may share it."""

    def __init__(self, in_stock: Mapping[str, int] = IN_STOCK) -> None:
        self._lock = threading.Lock()
        self._left = dict(in_stock)
        self._reserved: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def get_stock(self, request: Any) -> Any:
        """How many of an item are left.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._lock:
            return protos.Stock(item=request.item, left=self._left_of(request.item))

    def reserve(self, request: Any) -> Any:
        """Set some of an item aside for an order, once.

        Raises:
            Refused: INVALID_ARGUMENT, NOT_FOUND or FAILED_PRECONDITION.
        """
        if not 0 < len(request.order_id) <= _LONGEST_ID or request.quantity < 1:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"order_id has 1 to {_LONGEST_ID} characters, quantity is above 0")
        with self._lock:
            left = self._left_of(request.item)
            if request.order_id not in self._reserved:
                if left < request.quantity:
                    raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"only {left} are left")
                left = self._left[request.item] = left - request.quantity
                self._reserved[request.order_id] = request.item, request.quantity
                if len(self._reserved) > _RESERVATIONS_KEPT:
                    self._reserved.popitem(last=False)
            return protos.Stock(item=request.item, left=left)

    def release(self, request: Any) -> Any:
        """Put back what was set aside for an order, if anything was."""
        with self._lock:
            item, quantity = self._reserved.pop(request.order_id, ("", 0))
            if quantity:
                self._left[item] += quantity
        return protos.ReleaseResponse()

    def _left_of(self, item: str) -> int:
        try:
            return self._left[item]
        except KeyError:
            raise Refused(grpc.StatusCode.NOT_FOUND, "the shop does not sell it") from None
