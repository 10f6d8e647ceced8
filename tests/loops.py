"""Event loops in threads of their own, for what blocks beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_a_loop(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter `manager` in a loop that runs in a thread of its own until the block is left."""
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as pool:
        entered = runner.run(manager.__aenter__())
        loop = runner.get_loop()
        running = pool.submit(loop.run_forever)
        try:
            yield entered
        finally:
            loop.call_soon_threadsafe(loop.stop)
            running.result(30)
            runner.run(manager.__aexit__(None, None, None))
