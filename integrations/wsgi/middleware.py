"""The middleware: finds the pipeline of each request and hands it to an exchange of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from resilience import Pipeline, RefusalSettings, Toolkit
from resilience.edges import ChangeAnswer, open_source
from resilience.integrations.wsgi.exchange import HttpExchange
from resilience.integrations.wsgi.request import own_path
from resilience.integrations.wsgi.types import App, Environ, StartResponse


class ResilienceMiddleware:
    """Guards a WSGI application: `app.wsgi_app = ResilienceMiddleware(app.wsgi_app, config="resilience.yaml")`.

    A synchronous handler cannot be stopped when its deadline passes: its late response goes out all the same and is counted as
    `expired`. `resilience.current_deadline()` tells a handler how long it still has, its `check()` gives up, and outgoing calls
    through a pipeline are bounded by it.

    Args:
        app: the application.
        config: the path of a configuration file, or a `Toolkit`. Its routes say which pipeline guards which request, by the path
            within the application: without what the server or a mount put before it (`SCRIPT_NAME`).
        pipeline: one pipeline made in code that guards every request instead.
        refusals: how refusals are answered, with `pipeline`: statuses, and whether with a problem document; a file has a section of
            that name.
        answer: has the last word on each answer to a refusal: a function of the `Rejected` and the `resilience.edges.Answer` that
            returns an `Answer`, such as `answer.with_body("application/json", body)`.

    Raises:
        ConfigError: the file cannot be used: the service does not start.
        TypeError: neither or both of `config` and `pipeline` are given, or `refusals` without `pipeline`.
    """

    def __init__(
        self,
        app: App,
        config: str | os.PathLike[str] | Toolkit | None = None,
        *,
        pipeline: Pipeline | None = None,
        refusals: RefusalSettings | None = None,
        answer: ChangeAnswer | None = None,
    ) -> None:
        self.app = app
        self._source, close = open_source(config, pipeline, refusals, answer)
        self._sole = self._source.sole
        self._close: Callable[[], None] | None = close

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        guarded = self._sole
        if guarded is None:
            path = environ.get("PATH_INFO", "")
            guarded = self._source.find(environ["REQUEST_METHOD"], path if path.isascii() else own_path(environ))
            if guarded is None:
                return self.app(environ, start_response)
        return HttpExchange().run(guarded, environ, start_response, self.app)

    def close(self) -> None:
        """Give up the configuration file, once. For applications that are taken down while the process lives on."""
        if self._close is not None:
            self._close()
            self._close = None
