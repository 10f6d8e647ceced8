"""The body of a request that is made while it is sent: what goes wrong in the making says nothing of the peer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience.integrations.requests.request import Request


class _Upload:
    """In the place of a request's body, with all that it has. The deadline is looked at before and after each part."""

    def __init__(self, body: Any, request: Request) -> None:
        self._body = body
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def _look_at_deadline(self) -> None:
        if self._request.is_over:
            raise TimeoutError("the deadline passed while the body was sent")  # the request knows whose it is


class FileUpload(_Upload):
    """A body that is read, which goes before iterating."""

    def read(self, *args: Any) -> bytes:
        """As the file's. Text is sent as UTF-8, as urllib3 does it."""
        self._look_at_deadline()
        with self._request.making_body():
            part: bytes | str = self._body.read(*args)
            self._look_at_deadline()
        return part.encode() if isinstance(part, str) else part


class IteratedUpload(_Upload):
    """A body that is iterated over."""

    def __iter__(self) -> Iterator[bytes]:
        with self._request.making_body():
            parts = iter(self._body)
        while True:
            self._look_at_deadline()
            with self._request.making_body():
                part = next(parts, None)
                self._look_at_deadline()
            if part is None:
                return
            yield part


def upload(body: Any, request: Request) -> _Upload:
    """The body as `request` sends it."""
    return FileUpload(body, request) if hasattr(body, "read") else IteratedUpload(body, request)
