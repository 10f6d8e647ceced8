"""What WSGI (PEP 3333) hands around."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
"""`start_response(status, headers, exc_info=None)`."""
App = Callable[[Environ, StartResponse], Iterable[bytes]]
