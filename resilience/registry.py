"""Who is alive: layers and signals enrol here, so that metrics can be read when somebody asks and cost nothing until then."""

from __future__ import annotations

import threading
import weakref
from typing import Any

_lock = threading.Lock()
_members: weakref.WeakSet[Any] = weakref.WeakSet()


def enrol(member: Any) -> None:
    """Let `member` be found for as long as somebody else holds it."""
    with _lock:
        _members.add(member)


def members(kind: type[Any]) -> list[Any]:
    """The living members of a class."""
    with _lock:
        return [member for member in _members if isinstance(member, kind)]
