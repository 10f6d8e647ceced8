"""Reads the value of one declared key: its text by the key's shape and kind, its range by the key's options."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from resilience.config.nodes import Node, ScalarNode
from resilience.config.report import Report
from resilience.config.scalars import nothing, parse_count, parse_flag, parse_method, parse_number, parse_text
from resilience.config.schema import NONE, Key, Shape
from resilience.config.values import RANGE_FORM, is_number, parse_duration, parse_range, parse_rate, parse_share, shown
from resilience.config.walk import dotted, found, items, known_members, mapping
from resilience.layers.keys import HEADER_PREFIX, header_name
from resilience.layers.retry.on import LOWEST_RETRIED, OWN_REFUSALS
from resilience.layers.statuses import HIGHEST_STATUS, LOWEST_STATUS, status_range
from resilience.settings import Kind, Option

Fields = Mapping[str, Any]
"""Values by the field they set."""

_STATUS_CLASS: Final = re.compile(r"[1-5][Xx]{2}")


def read_key(report: Report, key: Key, node: Node, path: str) -> Fields | None:
    """Read the value of `key`, whose dotted key is `path`. Returns None when it has a problem, which is reported."""
    report.positions[path] = node.position
    if key.shape is Shape.GROUP:
        return _read_group(report, key, node, path)
    return _read_list(report, key, node, path) if key.shape in _ITEMS else _read_scalar(report, key, node, path)


def _read_scalar(report: Report, key: Key, node: Node, path: str) -> Fields | None:
    """Read one scalar by the parser of the key's shape."""
    if not isinstance(node, ScalarNode):
        form = key.options[0].kind.value if key.shape is Shape.VALUE else key.shape.value
        report.problem(node.position, path, f"must be {form}, got {found(node)}")
        return None
    try:
        return _SCALARS[key.shape](key, node)
    except ValueError as error:
        report.problem(node.position, path, str(error))
        return None


def _one_value(key: Key, scalar: ScalarNode) -> Fields:
    option = key.options[0]
    return {key.fields[0]: _in_range(option, _KINDS[option.kind](option, scalar))}


def _window(key: Key, scalar: ScalarNode) -> Fields:
    duration_field, count_field = key.fields
    duration, count = key.options
    if is_number(scalar.text) or (scalar.tag in ("int", "float") and ":" not in scalar.text):
        return {count_field: _in_range(count, parse_count(scalar))}
    try:
        seconds = parse_duration(_text(scalar, Shape.WINDOW.value))
    except ValueError as error:
        raise ValueError(str(error).replace(Kind.DURATION.value, Shape.WINDOW.value, 1)) from None
    return {duration_field: _in_range(duration, seconds)}


def _range(key: Key, scalar: ScalarNode) -> Fields:
    text = _text(scalar, RANGE_FORM)
    ends = zip(key.fields, key.options, parse_range(text), strict=True)
    fields = {field: _in_range(option, value) for field, option, value in ends}
    return fields if ".." in text else {**dict(key.implied), **fields}


def _key_source(key: Key, scalar: ScalarNode) -> Fields:
    form = f"{', '.join(key.words)} or {HEADER_PREFIX}NAME"
    text = _text(scalar, form)
    if text.startswith(HEADER_PREFIX):
        try:
            header_name(text)
        except ValueError:
            example = f"{HEADER_PREFIX}x-api-key"
            raise ValueError(f"{shown(text)} names no header; write the header's name, as in {example}") from None
    elif text not in key.words:
        raise ValueError(f"must be {form}, got {shown(text)}")
    return {key.fields[0]: text}


def _signal(key: Key, scalar: ScalarNode) -> Fields:
    if scalar.is_null:
        what = "health signal" if key.shape is Shape.SIGNAL else key.name
        raise ValueError(f"must be {key.shape.value}, got nothing; write none for no {what}")
    return {key.fields[0]: None if scalar.text == NONE else scalar.text}


def _read_group(report: Report, key: Key, node: Node, path: str) -> Fields | None:
    form = f"a mapping such as {{{', '.join(f'{inner.name}: ...' for inner in key.keys)}}}"
    group = mapping(report, node, path, form)
    if group is None:
        return None
    inner_keys = {inner.name: inner for inner in key.keys}
    inside = known_members(report, group, path, inner_keys, path.rpartition(".")[2])
    read = [read_key(report, inner_keys[name], value, dotted(path, name)) for name, (_, value) in inside.items()]
    if len(inside) < len(group.pairs) or any(fields is None for fields in read):
        return None
    return {field: value for fields in read if fields is not None for field, value in fields.items()}


def _read_list(report: Report, key: Key, node: Node, path: str) -> Fields | None:
    """Read a list of distinct texts. Every item that is wrong is reported on its own."""
    listed = items(report, node, path, key.shape.value)
    if listed is None:
        return None
    if not listed and key.shape in _NOT_EMPTY:
        report.problem(node.position, path, "must have an item; leave the key out for the defaults")
        return None
    texts: dict[str, None] = {}
    for index, item in enumerate(listed):
        try:
            texts[_read_item(report, key, item, texts)] = None
        except ValueError as error:
            report.problem(item.position, f"{path}[{index}]", str(error))
    return {key.fields[0]: tuple(texts)} if len(texts) == len(listed) else None


def _read_item(report: Report, key: Key, item: Node, earlier: Collection[str]) -> str:
    if not isinstance(item, ScalarNode):
        raise ValueError(f"must be text, got {found(item)}; a text that holds ':', '[' or '{{' needs quotes")
    text = _ITEMS[key.shape](report, key, item)
    if text in earlier:
        raise ValueError(f"{shown(text)} is listed twice")
    return text


def _name(report: Report, key: Key, scalar: ScalarNode) -> str:
    text = parse_text(scalar)
    if key.words and text not in key.words:
        guessed = report.did_you_mean(text, key.words) or report.did_you_mean(text.upper(), key.words)
        guessed = guessed or f"; it can be {', '.join(key.words)}"
        raise ValueError(f"{shown(text)} is unknown{guessed}")
    return text


def _retry_reason(report: Report, key: Key, scalar: ScalarNode) -> str:
    if (scalar.plain and scalar.tag in ("int", "float")) or scalar.text[:1].isdigit():
        return _status(scalar, LOWEST_RETRIED)
    text = parse_text(scalar)
    if text not in key.words:
        guessed = report.did_you_mean(text, key.words) or report.did_you_mean(text.upper(), key.words)
        known = "; it can be an HTTP status such as 503, a gRPC code such as UNAVAILABLE, " + ", ".join(OWN_REFUSALS)
        raise ValueError(f"{shown(text)} is unknown{guessed or known}")
    return text


def _method(report: Report, key: Key, scalar: ScalarNode) -> str:
    return parse_method(scalar)


def _any_status(report: Report, key: Key, scalar: ScalarNode) -> str:
    return _status(scalar, LOWEST_STATUS)


def _status(scalar: ScalarNode, lowest: int) -> str:
    """An HTTP status, or a range of them, none below `lowest`."""
    text = scalar.text
    between = f"between {lowest} and {HIGHEST_STATUS}"
    if _STATUS_CLASS.fullmatch(text):
        raise ValueError(f"must be an HTTP status or a range of them, got {shown(text)}; write {text[0]}00..{text[0]}99")
    if ".." not in text:
        status = parse_count(scalar)
        if not lowest <= status <= HIGHEST_STATUS:
            raise ValueError(f"must be an HTTP status {between}, got {status}")
        return str(status)
    statuses = status_range(text)
    if statuses is None or statuses.start < lowest:
        raise ValueError(f"must be a range of HTTP statuses {between}, such as 500..599, got {shown(text)}")
    return text


def _network(report: Report, key: Key, scalar: ScalarNode) -> str:
    text = parse_text(scalar)
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"must be an IP address or network, got {shown(text)}{_network_hint(text)}") from None
    if "%" in text:
        raise ValueError(f"must be an address without a zone, got {shown(text)}")
    return text


def _network_hint(text: str) -> str:
    try:
        return f"; its host bits are set, write {ipaddress.ip_network(text, strict=False)}"
    except ValueError:
        return ""


def _text(scalar: ScalarNode, form: str) -> str:
    if scalar.is_null:
        raise ValueError(nothing(form))
    return scalar.text


def _choice(option: Option, scalar: ScalarNode) -> str:
    form = f"one of {', '.join(option.choices)}"
    text = _text(scalar, form)
    if text not in option.choices:
        raise ValueError(f"must be {form}, got {shown(text)}")
    return text


def _in_range(option: Option, value: Any) -> Any:
    problem = option.problem(value)
    if problem is not None:
        raise ValueError(problem)
    return value


_KINDS: Final[Mapping[Kind, Callable[[Option, ScalarNode], Any]]] = {
    Kind.DURATION: lambda option, scalar: parse_duration(_text(scalar, option.kind.value)),
    Kind.SHARE: lambda option, scalar: parse_share(_text(scalar, option.kind.value)),
    Kind.RATE: lambda option, scalar: parse_rate(_text(scalar, option.kind.value)),
    Kind.COUNT: lambda option, scalar: parse_count(scalar),
    Kind.NUMBER: lambda option, scalar: parse_number(scalar),
    Kind.FLAG: lambda option, scalar: parse_flag(scalar),
    Kind.CHOICE: _choice,
    Kind.TEXT: lambda option, scalar: parse_text(scalar),
}

_SCALARS: Final[Mapping[Shape, Callable[[Key, ScalarNode], Fields]]] = {
    Shape.VALUE: _one_value,
    Shape.WINDOW: _window,
    Shape.RANGE: _range,
    Shape.KEY_SOURCE: _key_source,
    Shape.SIGNAL: _signal,
    Shape.LIMITER: _signal,
    Shape.PIPELINE: _signal,
}

_ITEMS: Final[Mapping[Shape, Callable[[Report, Key, ScalarNode], str]]] = {
    Shape.NAMES: _name,
    Shape.RETRY_ON: _retry_reason,
    Shape.STATUSES: _any_status,
    Shape.NETWORKS: _network,
    Shape.METHODS: _method,
}
_NOT_EMPTY: Final = (Shape.RETRY_ON, Shape.METHODS)
