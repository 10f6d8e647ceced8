"""Where an order takes its items from. Here the shop has enough of everything; `examples/grpc_service` asks an inventory."""

from __future__ import annotations

from typing import Protocol


class NotInStock(Exception):
    """The order cannot be met. The text is for the customer."""


class StockFailed(Exception):
    """The inventory could not be reached, or failed."""


class Stock(Protocol):
    """What sets items aside for orders."""

    async def reserve(self, order_id: str, item: str) -> None:
        """Set one of `item` aside.

        Raises:
            NotInStock: there is none.
            StockFailed: nobody could say.
            Exception: a refusal, which the middleware answers.
        """

    def put_back(self, order_id: str) -> None:
        """See to it that what was set aside is put back, without waiting for that."""

    async def open(self) -> None:
        """Connect. The loop that calls `reserve` runs."""

    async def close(self) -> None:
        """End the connection."""


class Plenty:
    """Enough of everything."""

    async def reserve(self, order_id: str, item: str) -> None:
        pass

    def put_back(self, order_id: str) -> None:
        pass

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass
