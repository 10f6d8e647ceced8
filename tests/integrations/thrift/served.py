"""A real Thrift server on loopback that answers by what it is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import thriftpy2
from thriftpy2.protocol import TBinaryProtocolFactory
from thriftpy2.rpc import make_client
from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TProcessor
from thriftpy2.transport import TBufferedTransportFactory, TServerSocket

make_socket: Any = TServerSocket
make_protocols: Any = TBinaryProtocolFactory
shop: Any = thriftpy2.load(str(Path(__file__).with_name("shop.thrift")), module_name="shop_thrift")


class Stock:
    """Knows the number of letters of everything."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []

    def level(self, sku: str) -> int:
        self.asked.append(sku)
        if sku == "unknown":
            raise shop.Unknown(sku)
        if sku == "hangs":
            self.released.wait(20)
        if sku == "breaks":
            raise ZeroDivisionError
        return len(sku)

    def moved(self, sku: str, by: int) -> int:
        return len(sku) + by

    def note(self, sku: str) -> None:
        self.asked.append(sku)


class _Server(TThreadedServer):
    """Its threads end with the test."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, daemon=True)


class Served:
    """Where it is, and what it was asked."""

    def __init__(self, stock: Stock, port: int) -> None:
        self.stock = stock
        self.port = port
        self.connections = 0

    def connect(self) -> Any:
        """One more client."""
        self.connections += 1
        return make_client(shop.Stock, "127.0.0.1", self.port, timeout=10_000)


@contextmanager
def serving() -> Iterator[Served]:
    """Serve on a free port until the block is left."""
    stock = Stock()
    listening: Any = make_socket("127.0.0.1", 0, client_timeout=30_000)
    listening.listen()
    port = listening.sock.getsockname()[1]
    listening.listen = lambda: None
    server = _Server(TProcessor(shop.Stock, stock), listening, TBufferedTransportFactory(), make_protocols())
    thread = threading.Thread(target=_serve, args=(server,), daemon=True)
    thread.start()
    try:
        yield Served(stock, port)
    finally:
        stock.released.set()
        server.closed = True
        make_client(shop.Stock, "127.0.0.1", port).close()  # so that it stops waiting for the next
        thread.join(10)
        listening.close()


def _serve(server: Any) -> None:
    server.serve()
