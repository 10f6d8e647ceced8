"""Every test here must leave the process as it found it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc.aio
import pytest

from resilience.testing import no_leaks_fixture

no_leaks = no_leaks_fixture(autouse=True)


@pytest.fixture(scope="session", autouse=True)
def poller() -> Iterator[None]:
    """grpc.aio has one thread for all loops while anything of it lives; this lives as long as the tests."""

    async def idle_channel() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel("127.0.0.1:1")

    with asyncio.Runner() as runner:
        channel = runner.run(idle_channel())
        yield
        runner.run(channel.close())
