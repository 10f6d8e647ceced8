"""The worker pools of one configuration file: made when code asks for them, one of a name, and kept to the file's settings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from resilience.clock import Clock
from resilience.config import LayerReference, PoolEntry
from resilience.errors import ConfigError
from resilience.handle import PipelineHandle
from resilience.pipeline import Pipeline
from resilience.states import Active
from resilience.workers import AsyncWorkerPool, FailedTaskStore, FailedTaskStoreError, WorkerPool
from resilience.workers.plan import PoolPlan

log = logging.getLogger("resilience")
AnyPool = WorkerPool | AsyncWorkerPool
K = TypeVar("K", WorkerPool, AsyncWorkerPool)


class Pools:
    """The pools that are alive. `resolve` finds the pipeline of a name, whenever it is asked."""

    def __init__(self, path: str, clock: Clock, resolve: Callable[[str], Pipeline]) -> None:
        self._path = path
        self._clock = clock
        self._resolve = resolve
        self._lock = threading.Lock()
        self._pools: dict[tuple[type[AnyPool], str], AnyPool] = {}
        self._stores: dict[str, FailedTaskStore] = {}

    def get(self, kind: type[K], active: Active, name: str) -> K:
        """The pool of this kind and name; a new one where there is none that is open.

        Raises:
            ConfigError: the file has no such pool.
            FailedTaskStoreError: its store of failed tasks cannot be opened.
        """
        entry = active.document.pools.get(name)
        if entry is None:
            known = ", ".join(sorted(active.document.pools)) or "none at all"
            raise ConfigError(f"{self._path}: has no pool called {name!r}; it has {known}")
        with self._lock:
            found = self._pools.get((kind, name))
            if not isinstance(found, kind) or found.is_closed:
                found = kind.over(name, self._plan(active, name, entry, self._open), self._clock)
                self._pools[kind, name] = found
        return found

    def follow(self, active: Active) -> None:
        """Have every pool go by another configuration. One that the file does not name any more goes on as it is."""
        with self._lock:
            for (_, name), pool in self._pools.items():
                entry = active.document.pools.get(name)
                if entry is not None and not pool.is_closed:
                    held = pool.plan.failed
                    pool.configure(self._plan(active, name, entry, partial(self._open_or, held=held)))

    def status(self) -> dict[str, Any]:
        """What an operator wants to see of each pool that is open."""
        with self._lock:
            pools = [(name, pool) for (_, name), pool in self._pools.items() if not pool.is_closed]
        return {name: pool.status() for name, pool in pools}

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it."""
        self._lock = threading.Lock()

    def _plan(self, active: Active, name: str, entry: PoolEntry, store: Callable[[str], FailedTaskStore | None]) -> PoolPlan:
        limiter = None if entry.limiter is None else active.states._layer(LayerReference("limiter", entry.limiter))
        pipeline = None if entry.pipeline is None else self._handle(entry.pipeline)
        health = None if entry.health is None else active.states.signals[entry.health]
        failed = None if entry.failed is None else store(str(Path(self._path).parent / entry.failed))
        return PoolPlan.of(name, entry.settings, limiter, pipeline, health, failed)

    def _handle(self, name: str) -> PipelineHandle:
        return PipelineHandle(name, partial(self._last_known, {name: self._resolve(name)}))

    def _last_known(self, known: dict[str, Pipeline], name: str) -> Pipeline:
        """The pipeline of a name; as it was last where the file has none any more, since a pool goes on when it is taken out."""
        try:
            known[name] = found = self._resolve(name)
        except ConfigError:
            return known[name]
        return found

    def _open(self, path: str) -> FailedTaskStore:
        if path not in self._stores:
            self._stores[path] = FailedTaskStore(path, clock=self._clock)
        return self._stores[path]

    def _open_or(self, path: str, *, held: FailedTaskStore | None) -> FailedTaskStore | None:
        try:
            return self._open(path)
        except FailedTaskStoreError as error:
            log.error("%s: failed tasks go on to where they went before: %s", self._path, error)
            return held
