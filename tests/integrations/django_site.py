"""A site of Django's for the tests of both its interfaces: Django has one configuration a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from resilience import CircuitOpen, current_call


def refuse() -> None:
    """What an outgoing pipeline does in a handler."""
    raise CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=3.0)


def _hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def _refused(request: HttpRequest) -> None:
    refuse()


async def _refused_later(request: HttpRequest) -> None:
    refuse()


def _streamed(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for _ in range(2):
            call = current_call()
            yield f"{None if call is None else call.pipeline} "

    return StreamingHttpResponse(parts())


def _file(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"), content_type="text/plain")


class Urls:
    """The site's pages."""

    urlpatterns = (
        path("hello", _hello),
        path("refused", _refused),
        path("refused-later", _refused_later),
        path("streamed", _streamed),
        path("file", _file),
    )


def set_up() -> None:
    """Configure Django for this process."""
    if settings.configured:
        return
    import django

    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="for a test",
        ROOT_URLCONF=Urls,
        USE_TZ=True,
        MIDDLEWARE=["resilience.integrations.asgi.django_refusals"],
    )
    django.setup(set_prefix=False)
