"""`resilience explain`: what guards a request, with every setting in force and where it comes from."""

from __future__ import annotations

import sys

import click

from resilience.command.entry import TROUBLE
from resilience.command.explanation import Explanation
from resilience.command.findings import show
from resilience.command.reading import read
from resilience.command.requests import Request
from resilience.command.screen import Screen, printable
from resilience.command.snippet import lines_of


@click.command(short_help="Explain what guards a request, value by value.")
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.argument("request", metavar="[METHOD PATH | GRPC_METHOD]", nargs=-1)
@click.option("--pipeline", metavar="NAME", help="Explain a pipeline by its name, such as one that only code uses.")
@click.option("--pool", metavar="NAME", help="Explain a worker pool.")
@click.pass_context
def explain(context: click.Context, file: str, request: tuple[str, ...], pipeline: str | None, pool: str | None) -> None:
    """Explain what guards a request: the route, the pipeline, its layers, and every setting with the line it comes from.

    \b
        resilience explain resilience.yaml GET /orders/7
        resilience explain resilience.yaml /shop.v1.Orders/Create
        resilience explain resilience.yaml --pipeline payments
        resilience explain resilience.yaml --pool mail
        resilience explain resilience.yaml        (all routes, pipelines and pools in short)

    \b
    Exit status: 0  the request is explained, guarded or not
                 2  the file has errors, or the command was called in a wrong way
    """
    wanted = _request(request)
    if sum(one is not None for one in (wanted, pipeline, pool)) > 1:
        raise click.UsageError("a request, --pipeline or --pool, not more than one of them")
    reading = read(file)
    if reading.document is None:
        show(Screen(sys.stderr), reading.findings, lines_of(reading.content))
        context.exit(TROUBLE)
    explanation = Explanation(Screen(sys.stdout), reading.document)
    if pipeline is not None:
        if pipeline not in reading.document.pipelines:
            known = ", ".join(reading.document.pipelines) or "none"
            raise click.UsageError(f"{printable(reading.name)} has no pipeline {pipeline!r}; it has {known}")
        explanation.pipeline(pipeline)
    elif pool is not None:
        if pool not in reading.document.pools:
            known = ", ".join(reading.document.pools) or "none"
            raise click.UsageError(f"{printable(reading.name)} has no pool {pool!r}; it has {known}")
        explanation.pool(pool)
    elif wanted is not None:
        explanation.request(wanted)
    else:
        explanation.overview()


def _request(words: tuple[str, ...]) -> Request | None:
    try:
        if len(words) > 2:
            raise ValueError("a request is METHOD PATH, such as GET /orders/7, or a gRPC method; quote what holds spaces")
        if len(words) == 2:
            return Request.http(*words)
        return Request.grpc(words[0]) if words else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
