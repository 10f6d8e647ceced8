"""A pipeline by name: resolved anew for each call, so that it follows changes of the configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from resilience.guard import Guard
from resilience.pipeline import Pipeline, decorate

P = ParamSpec("P")
T = TypeVar("T")


class PipelineHandle:
    """Used like a `Pipeline`. Each call goes through the pipeline as it is when the call begins.

    Every method raises `ConfigError` when the configuration has no pipeline of that name any more.
    """

    __slots__ = ("_resolve", "name")

    def __init__(self, name: str, resolve: Callable[[str], Pipeline]) -> None:
        self.name = name
        self._resolve = resolve

    @property
    def current(self) -> Pipeline:
        """The pipeline as it is now."""
        return self._resolve(self.name)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Pipeline.call`."""
        return self._resolve(self.name).call(fn, *args, **kwargs)

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Pipeline.acall`."""
        return await self._resolve(self.name).acall(fn, *args, **kwargs)

    def guard(self, name: str = "block", *, key: str | None = None, cost: int | None = None) -> Guard:
        """As `Pipeline.guard`."""
        return self._resolve(self.name).guard(name, key=key, cost=cost)

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """As decorating with a `Pipeline`."""
        return decorate(self, fn)

    def __repr__(self) -> str:
        return f"PipelineHandle({self.name!r})"
