"""The adapter that sends each request of a session through a pipeline."""

from __future__ import annotations

import os
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter, HTTPAdapter

from resilience import Toolkit
from resilience.edges import Choose, Chosen, OutgoingPipelines
from resilience.integrations.requests.request import Request, host_of


class ResilienceAdapter(BaseAdapter):
    """Sends each request of a session through a pipeline: `session.mount("https://", ResilienceAdapter(pipeline=payments))`.

    A request passes the layers before the pipeline's `Retry` once, and those after it for each try. What is left of its deadline
    travels in a header and bounds the session's own timeouts. Only what can be repeated is tried again: idempotent methods, or with
    an `Idempotency-Key`, and a body of bytes or a file that can be sought. A last answer is returned as it is, also a 503; a
    refusal is raised as `Rejected`.

    Args:
        adapter: sends what the pipeline lets through, and is closed with this one; default `HTTPAdapter()`. Its own `max_retries`
            should stay 0.
        config: the path of a configuration file, or a `Toolkit`; needed where `pipeline` is a name.
        pipeline: a pipeline made in code, or `toolkit.pipeline(name)`, or a name, or a function of method and host (such as
            "GET" and "payments.example:8443") that returns one of these, or None for no guard.

    Raises:
        ConfigError: the file cannot be used, or has no such pipeline.
        TypeError: `pipeline` is none of these.
    """

    def __init__(
        self,
        adapter: BaseAdapter | None = None,
        config: str | os.PathLike[str] | Toolkit | None = None,
        *,
        pipeline: Chosen | Choose,
    ) -> None:
        super().__init__()
        self._pipelines = OutgoingPipelines(config, pipeline)
        self._adapter = adapter or HTTPAdapter()

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send one request.

        Raises:
            Rejected: a layer refused, or the deadline passed. Errors of the session are raised as themselves.
        """
        options = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        pipeline = self._pipelines.find((request.method or "").upper(), host_of(request))
        if pipeline is None:
            return self._adapter.send(request, **options)
        response: Response = Request(pipeline, request, self._adapter, options).run()
        response.connection = self  # type: ignore[assignment]  # by which authentication sends a request again
        return response

    def close(self) -> None:
        """Close the adapter within, and give up the configuration file."""
        try:
            self._adapter.close()
        finally:
            self._pipelines.close()
