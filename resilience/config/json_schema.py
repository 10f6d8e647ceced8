"""The configuration file as JSON Schema, for editors and for checks that do not run Python.

Made from the declarations that the reader goes by, so it says what the reader says: names of keys, forms and ranges of values,
defaults, meanings. It refuses nothing that the reader takes, as long as texts are texts to YAML 1.2 as well: a signal called `true`
or a method called `5` needs quotes. The reader knows more: that every name leads somewhere, what two keys must be to each other,
that a server's requests are not retried, and which of YAML's many spellings of a number it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from resilience.config import json_patterns as patterns
from resilience.config.schema import (
    FORMAT_VERSION,
    LAYERS,
    MATCH,
    MAX_ENTRIES,
    PIPELINE,
    REFUSALS,
    SECTIONS,
    STORE,
    STORE_SECTIONS,
    TOP_LEVEL_DOCS,
    Key,
    Section,
    Shape,
)
from resilience.config.written import default_of, ranges_of
from resilience.layers.retry.on import LOWEST_RETRIED
from resilience.layers.statuses import HIGHEST_STATUS, LOWEST_STATUS
from resilience.settings import Kind, Option

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_LONGEST: Final = 40
Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema, as JSON Schema draft 2020-12. Each call makes a new one.

    Source: JSON Schema Core and Validation, draft 2020-12.
    """
    return {
        "$schema": DIALECT,
        "title": "resilience",
        "description": "One file that says how a service is guarded, and that can be changed while the service runs.",
        **_mapping(_top_level(), required=["version"]),
        "$defs": {_definition(section): _entry(section) for section in (*SECTIONS, *STORE_SECTIONS)},
    }


def _top_level() -> dict[str, Schema]:
    values: dict[str, Schema] = {
        "version": {"const": FORMAT_VERSION},
        **{section.name: _named({"$ref": f"#/$defs/{_definition(section)}"}) for section in SECTIONS},
        "pipelines": _named(_pipeline()),
        "routes": {"type": "array", "maxItems": MAX_ENTRIES, "items": _route()},
        REFUSALS.name: _entry(REFUSALS),
        STORE.name: _value(STORE),
    }
    return {name: {"description": _sentence(doc), **values[name]} for name, doc in TOP_LEVEL_DOCS.items()}


def _definition(section: Section) -> str:
    return section.noun.replace(" ", "_")


def _mapping(properties: Mapping[str, Schema], required: list[str] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _named(entry: Schema) -> Schema:
    """A mapping of names that the file's author chooses."""
    return {
        "type": "object",
        "maxProperties": MAX_ENTRIES,
        "propertyNames": {"pattern": patterns.NAME},
        "additionalProperties": entry,
    }


def _entry(section: Section) -> Schema:
    properties = {key.name: _described(key, default_of(section, key), section) for key in section.keys}
    return {"description": _sentence(section.doc), **_mapping(properties, [key.name for key in section.required])}


def _described(key: Key, default: Any, section: Section) -> Schema:
    described: Schema = {"description": _description(key)}
    if key.shape is Shape.GROUP:
        inner = {part.name: _described(part, default_of(section, part), section) for part in key.keys}
        return {**described, **_mapping(inner)}
    if default is not None:
        described["default"] = default
    return {**described, "examples": [yaml.safe_load(key.example)], **_value(key)}


def _description(key: Key) -> str:
    """What a key means, what form its value has, and in what range it must be."""
    option = key.options[0]
    form = option.kind.value if key.shape is Shape.VALUE else key.shape.value
    if option.kind in (Kind.CHOICE, Kind.FLAG) or key.keys:  # an editor shows these by itself
        form = ""
    meaning = "; ".join(option.doc for option in key.options)
    return " ".join(_sentence(text) for text in (meaning, form, *ranges_of(key), key.note) if text)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# --- pipelines and routes -------------------------------------------------------------------------------------------------------


def _pipeline() -> Schema:
    layers = {
        noun: {"description": f"The name of a {section.noun}.", "type": "string", "pattern": patterns.NAME}
        for noun, section in LAYERS.items()
    }
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_ENTRIES,
        "uniqueItems": True,
        "items": {**_mapping(layers), "minProperties": 1, "maxProperties": 1},
        "contains": {"required": ["retry"]},  # one at most: attempts of two would multiply
        "minContains": 0,
        "maxContains": 1,
    }


def _route() -> Schema:
    path, methods, grpc = MATCH
    match = {
        **_mapping({key.name: _of_route(key) for key in MATCH}),
        "oneOf": [{"required": [path.name]}, {"required": [grpc.name]}],
        "not": {"required": [grpc.name, methods.name]},
    }
    return _mapping({"match": match, PIPELINE.name: _of_route(PIPELINE)}, ["match", PIPELINE.name])


def _of_route(key: Key) -> Schema:
    return {"description": _description(key), "examples": [yaml.safe_load(key.example)], **_value(key)}


# --- values ---------------------------------------------------------------------------------------------------------------------


def _value(key: Key) -> Schema:
    return _SHAPES[key.shape](key)


def _one_value(key: Key) -> Schema:
    option = key.options[0]
    return _KINDS[option.kind](option)


def _text(pattern: str, longest: int | None = None) -> Schema:
    schema: Schema = {"type": "string", "pattern": pattern}
    return schema if longest is None else {**schema, "maxLength": longest}


def _number(kind: str, option: Option) -> Schema:
    if option.values:
        return {"enum": list(option.values)}
    bounds = {
        "minimum": option.minimum,
        "maximum": option.maximum,
        "exclusiveMinimum": option.above,
        "exclusiveMaximum": option.below,
    }
    return {"type": kind, **{word: bound for word, bound in bounds.items() if bound is not None}}


def _share(option: Option) -> Schema:
    number = _number("number", option)
    number["maximum"] = min(1, number.get("maximum", 1))  # above it, a person means percent
    return {**number, **_text(patterns.whole(patterns.share(option)), _LONGEST), "type": ["string", "number"]}


def _window(key: Key) -> Schema:
    duration, count = key.options
    text = _text(patterns.whole(patterns.duration(duration)), _LONGEST)
    return {**_number("integer", count), **text, "type": ["string", "integer"]}


def _range(key: Key) -> Schema:
    return _text(patterns.whole(patterns.duration_range(*key.options)), 2 * _LONGEST + 2)


def _store(section: Section) -> Schema:
    """A mapping of the one word for a store to what is said about it."""
    return _mapping({section.name: {"$ref": f"#/$defs/{_definition(section)}"}}, [section.name])


def _statuses(key: Key) -> Schema:
    return _list(_status(LOWEST_STATUS))


def _retry_on(key: Key) -> Schema:
    return {**_list({"anyOf": [{"enum": list(key.words)}, _status(LOWEST_RETRIED)]}), "minItems": 1}


def _status(lowest: int) -> Schema:
    text = _text(patterns.whole(patterns.status_range(lowest, HIGHEST_STATUS)))
    return {"minimum": lowest, "maximum": HIGHEST_STATUS, **text, "type": ["string", "integer"]}


def _names(key: Key) -> Schema:
    return _list({"enum": list(key.words)} if key.words else {"type": "string", "minLength": 1})


def _list(item: Schema) -> Schema:
    return {"type": "array", "maxItems": MAX_ENTRIES, "uniqueItems": True, "items": item}


_SHAPES: Final[Mapping[Shape, Callable[[Key], Schema]]] = {
    Shape.VALUE: _one_value,
    Shape.WINDOW: _window,
    Shape.RANGE: _range,
    Shape.NAMES: _names,
    Shape.RETRY_ON: _retry_on,
    Shape.STATUSES: _statuses,
    Shape.NETWORKS: lambda key: _list(_text(patterns.NETWORK)),
    Shape.KEY_SOURCE: lambda key: {"anyOf": [{"enum": list(key.words)}, _text(patterns.HEADER)]},
    Shape.SIGNAL: lambda key: _text(patterns.SIGNAL),
    Shape.STORE: lambda key: {"anyOf": [{"enum": list(key.words)}, *(_store(section) for section in STORE_SECTIONS)]},
    Shape.PATH: lambda key: _text(patterns.PATH),
    Shape.METHODS: lambda key: {**_list(_text(patterns.METHOD)), "minItems": 1},
    Shape.GRPC: lambda key: _text(patterns.GRPC),
    Shape.PIPELINE: lambda key: _text(patterns.SIGNAL),
    Shape.LIMITER: lambda key: _text(patterns.SIGNAL),
}

_KINDS: Final[Mapping[Kind, Callable[[Option], Schema]]] = {
    Kind.DURATION: lambda option: _text(patterns.whole(patterns.duration(option)), _LONGEST),
    Kind.SHARE: _share,
    Kind.RATE: lambda option: _text(patterns.whole(patterns.rate(option)), _LONGEST),
    Kind.COUNT: lambda option: _number("integer", option),
    Kind.NUMBER: lambda option: _number("number", option),
    Kind.FLAG: lambda option: {"type": "boolean"},
    Kind.CHOICE: lambda option: {"enum": list(option.choices)},
    Kind.TEXT: lambda option: {"type": "string", "minLength": 1},
}
