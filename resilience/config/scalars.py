"""Reads counts, numbers and truth values from a YAML scalar as it stands in the file.

YAML 1.1 has many spellings of one number and several of one truth value: `010` is eight, `1:30` is ninety, `1_000` is a
thousand, `1e3` is text, `yes` is true. Nothing is guessed here: only the plain decimal spelling and `true` and `false`
are read, and anything else is refused with what was found and what to write.
"""

from __future__ import annotations

import re
from typing import Final

from resilience.config.nodes import ScalarNode
from resilience.config.values import is_number, shown
from resilience.settings import Kind

_COUNT: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_OCTAL: Final = re.compile(r"0[0-7]+")
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LONGEST_COUNT: Final = 18
_LONGEST_NUMBER: Final = 40
_TRUE: Final = ("true", "yes", "on", "y")
_FALSE: Final = ("false", "no", "off", "n")


def parse_count(scalar: ScalarNode) -> int:
    """Read a whole number, written as decimal digits with an optional minus sign.

    Raises:
        ValueError: it is written in another way, or is no whole number, or has more than 18 digits.
    """
    text = _unquoted(scalar, Kind.COUNT)
    if _COUNT.fullmatch(text) is None:
        raise ValueError(_refused(Kind.COUNT, scalar, _count_hint(text)))
    digits = len(text.removeprefix("-"))
    if digits > _LONGEST_COUNT:
        raise ValueError(f"must be a whole number of at most {_LONGEST_COUNT} digits, got {digits} digits")
    return int(text)


def parse_number(scalar: ScalarNode) -> float:
    """Read a number, written as a plain decimal such as `2` or `0.1`, with an optional minus sign.

    Raises:
        ValueError: it is written in another way, or is no finite number, or has more than 40 characters.
    """
    text = _unquoted(scalar, Kind.NUMBER)
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(_refused(Kind.NUMBER, scalar, _number_hint(text)))
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"must be a number of at most {_LONGEST_NUMBER} characters, got {len(text)} characters")
    return float(text)


def parse_flag(scalar: ScalarNode) -> bool:
    """Read `true` or `false`, and none of YAML's other words for them.

    Raises:
        ValueError: it is anything else.
    """
    text = _unquoted(scalar, Kind.FLAG)
    if text in ("true", "false"):
        return text == "true"
    word = text.lower()
    hint = "write true" if word in _TRUE else "write false" if word in _FALSE else ""
    raise ValueError(_refused(Kind.FLAG, scalar, hint))


def parse_text(scalar: ScalarNode) -> str:
    """The text of a scalar, quoted or not, as it stands: `on` stays "on" and `404` stays "404".

    Raises:
        ValueError: there is none.
    """
    if scalar.is_null:
        raise ValueError("must be text, got nothing")
    if not scalar.text:
        raise ValueError("must be text, got an empty one")
    return scalar.text


def parse_method(scalar: ScalarNode) -> str:
    """Read an HTTP method.

    Raises:
        ValueError: it is none, or not in upper case.
    """
    text = scalar.text
    if scalar.is_null or _METHOD.fullmatch(text) is None:
        raise ValueError(f"must be a method such as GET, got {'nothing' if scalar.is_null else shown(text)}")
    if text != text.upper():
        raise ValueError(f"methods are upper-case: write {shown(text.upper())}")
    return text


def nothing(form: str) -> str:
    """The message for a key whose value was left out."""
    return f"must be {form}, got nothing; leave the key out to leave it unset"


def _unquoted(scalar: ScalarNode, kind: Kind) -> str:
    if scalar.is_null:
        raise ValueError(nothing(kind.value))
    if not scalar.plain:
        raise ValueError(f"must be {kind.value}, got the text {shown(scalar.text)}; write it without quotes")
    return scalar.text


def _refused(kind: Kind, scalar: ScalarNode, hint: str) -> str:
    if scalar.tag == "bool" and kind is not Kind.FLAG:
        return f"must be {kind.value}, got the truth value {shown(scalar.text)}"
    return f"must be {kind.value}, got {shown(scalar.text)}" + (f"; {hint}" if hint else "")


def _count_hint(text: str) -> str:
    if _OCTAL.fullmatch(text) is not None and len(text) <= _LONGEST_COUNT:
        meant = text.lstrip("0") or "0"
        octal = int(text, 8)
        return f"write {meant}" if octal == int(text) else f"YAML reads it as octal; write {meant} or {octal}"
    value = _other_spelling(text)
    return f"write {int(value)}" if value is not None and value.is_integer() else ""


def _number_hint(text: str) -> str:
    value = _other_spelling(text)
    if value is None:
        return ""
    plain = str(int(value)) if value.is_integer() else repr(value)
    return f"write {plain}" if is_number(plain.removeprefix("-")) else "write it as a plain decimal"


def _other_spelling(text: str) -> float | None:
    """What a person may have meant by a number in another spelling, for a hint only."""
    if len(text) > _LONGEST_NUMBER or not text.isascii():
        return None
    try:
        value = float(int(text, 0)) if text.lower().startswith(("0x", "0b", "0o")) else float(text.replace(",", "_"))
    except ValueError:
        return None
    return value if abs(value) < 10**_LONGEST_COUNT else None
