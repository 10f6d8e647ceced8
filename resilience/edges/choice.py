"""Which pipeline an outgoing request goes through: one made in code, one of a configuration file, or what a function chooses."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from resilience.handle import PipelineHandle
from resilience.live import absolute
from resilience.pipeline import Pipeline
from resilience.toolkit import Toolkit, load

Chosen = Pipeline | PipelineHandle | str | None
"""A pipeline, a handle on one, the name of one in the configuration file, or None: nothing guards this request."""
Choose = Callable[[str, str], Chosen]
"""Chooses by the method and the host of a request, such as "GET" and "payments.example:8443"."""


class OutgoingPipelines:
    """Answers which pipeline a request goes through; follows changes of the configuration.

    Args:
        config: the path of a configuration file, which is watched from then on, or a toolkit, which stays as its owner made it.
            Needed where pipelines are chosen by name.
        pipeline: a pipeline made in code, a handle, the name of a pipeline of `config`, or a function that chooses one of these,
            or None for no guard, by method and host.

    Raises:
        ConfigError: the file cannot be used, or has no such pipeline.
        TypeError: no pipeline is given, or a name without `config`, or a pipeline made in code beside it.
    """

    def __init__(self, config: str | os.PathLike[str] | Toolkit | None, pipeline: Chosen | Choose) -> None:
        by_name = isinstance(pipeline, str)
        is_made = isinstance(pipeline, (Pipeline, PipelineHandle))
        if not (by_name or is_made or callable(pipeline)):
            raise TypeError(
                f"pipeline= must be a Pipeline, the name of one in config=, or a function of method and host that returns "
                f"one of these; got {pipeline!r}"
            )
        if by_name and config is None:
            raise TypeError(f"pipeline={pipeline!r} is a name: give config= (a path or a Toolkit) that has a pipeline of that name")
        if is_made and config is not None:
            raise TypeError("pipeline= is no name, so config= says nothing: give the name of one of its pipelines, or leave it out")
        self._pipeline = pipeline
        self._config = config if isinstance(config, Toolkit) or config is None else absolute(config)
        self._toolkit = load(self._config, watch=True) if isinstance(self._config, str) else self._config
        self._owned = self._toolkit if self._toolkit is not config else None
        if by_name:
            try:
                self.find("", "")
            except BaseException:
                self.close()
                raise

    def find(self, method: str, host: str) -> Pipeline | None:
        """The pipeline for a request, or None where it is not guarded.

        Raises:
            ConfigError: the configuration has no pipeline of that name any more.
            TypeError: the function chose something else.
        """
        chosen: Any = self._pipeline  # a user's function may choose anything
        if callable(chosen) and not isinstance(chosen, (Pipeline, PipelineHandle)):  # which can be called too
            chosen = chosen(method, host)
        if chosen is None or isinstance(chosen, Pipeline):
            return chosen
        if isinstance(chosen, PipelineHandle):
            return chosen.current
        if isinstance(chosen, str) and self._toolkit is not None:
            self._toolkit.keep_watching()
            return self._toolkit.resolve(chosen)
        raise TypeError(f"pipeline= chose {chosen!r}, which is no Pipeline and no name of one in config=")

    def __copy__(self) -> OutgoingPipelines:
        """Goes by the same policies, with the same state, and is closed by itself."""
        return OutgoingPipelines(self._config, self._pipeline)

    def __deepcopy__(self, memo: dict[int, Any]) -> OutgoingPipelines:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes, which load the configuration file themselves.

        Raises:
            TypeError: the policies live in this process alone.
        """
        if not isinstance(self._config, str):
            raise TypeError(
                "what was made with a pipeline or a toolkit of this process cannot be pickled: "
                "give config= a path and pipeline= a name, and each process has policies of its own"
            )
        return OutgoingPipelines, (self._config, self._pipeline)

    def close(self) -> None:
        """Give up the configuration file, once, where this was made with a path."""
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()
