"""Why the store `host` cannot serve for now."""

from __future__ import annotations


class Unusable(Exception):
    """The files of the store cannot be used; says which and why. It never reaches a caller: limits go by their local share."""
