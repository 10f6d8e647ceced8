"""The arguments of a task as JSON, exactly: what comes back is what went in, or it is refused with the place that does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

LONGEST: Final = 1_000_000
"""Characters a payload has at most."""


class PayloadError(TypeError):
    """The arguments of a task cannot be stored as JSON. The task was not accepted."""


def encode(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The payload of a call.

    Raises:
        PayloadError: an argument is nothing that JSON gives back as it was: which one, what it is, and what to do.
    """
    value = {"args": list(args), "kwargs": dict(kwargs)}
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        is_exact = json.loads(text) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(name, args, kwargs, str(error)) from None
    if not is_exact:  # JSON has no tuples, and its keys are texts
        raise _refused(name, args, kwargs, "it does not come back as it was")
    if len(text) > LONGEST:
        raise PayloadError(
            f"{name}: its arguments are {len(text)} characters of JSON, at most {LONGEST} are stored; pass a reference"
        )
    return text


def decode(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a stored payload."""
    value = json.loads(text)
    args, kwargs = value["args"], value["kwargs"]
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError("args must be a list and kwargs a mapping")
    return args, kwargs


def _refused(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], fault: str) -> PayloadError:
    places = {**{f"argument {index}": value for index, value in enumerate(args)}, **kwargs}
    found = next((told for place, value in places.items() if (told := _fault(value, place, 0)) is not None), fault)
    return PayloadError(
        f"{name}: its arguments cannot be stored as JSON: {found}; failed tasks are stored, so pass texts, numbers, lists and "
        "mappings of texts, or give the pool no store"
    )


def _fault(value: Any, place: str, depth: int) -> str | None:
    """Where something does not fit, and what it is."""
    if depth > 100:
        return f"{place[:80]}... is nested too deeply"
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place} is {value}"
    if isinstance(value, list):
        return next((told for index, item in enumerate(value) if (told := _fault(item, f"{place}[{index}]", depth + 1))), None)
    if not isinstance(value, dict):
        hint = ", which would come back as a list" if isinstance(value, tuple) else ""
        return f"{place} is a {type(value).__name__}{hint}"
    for key, item in value.items():
        if not isinstance(key, str):
            return f"a key of {place} is a {type(key).__name__}, not a text"
        told = _fault(item, f"{place}[{key[:40]!r}]", depth + 1)
        if told is not None:
            return told
    return None
