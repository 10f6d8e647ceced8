"""Who is alive: layers and signals enrol here, so that metrics can be read when somebody asks and cost nothing until then.

A process that forks while other threads make calls copies their locks as they are, and in the child nobody lets go of them: there
every member gets new ones.
"""

from __future__ import annotations

import os
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


def _renew_locks() -> None:
    global _lock  # noqa: PLW0603  # the old one may be held by a thread that is not here
    _lock = threading.Lock()
    for member in list(_members):
        member.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
