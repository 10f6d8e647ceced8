"""The schema says what the reader says: it takes all that the reader takes, and refuses what is wrong with one key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.config import parse
from resilience.config.json_schema import _number, json_schema
from resilience.config.schema import LAYERS, MATCH, ROUTE_KEYS, SECTIONS, TOP_LEVEL, Key, Section, Shape
from resilience.config.written import default_of
from resilience.errors import ConfigError
from resilience.settings import Kind, Option
from tests.config.editor import complaints, read
from tests.config.reading import EXAMPLE, SOURCE

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json_schema()


def every_key() -> Iterator[Any]:
    """Every key of every section, those of groups too, as (section, path to the key, key)."""
    for section in SECTIONS:
        for key in section.keys:
            yield pytest.param(section, (key.name,), key, id=f"{section.name}.{key.name}")
            for inner in key.keys:
                yield pytest.param(section, (key.name, inner.name), inner, id=f"{section.name}.{key.name}.{inner.name}")


EVERY_KEY = list(every_key())
SINGLE_KEYS = [case for case in EVERY_KEY if not case.values[2].keys]
NAMING_SHAPES = {Shape.SIGNAL, Shape.LIMITER, Shape.PIPELINE}
LIST_SHAPES = {Shape.NAMES, Shape.RETRY_ON, Shape.STATUSES, Shape.NETWORKS, Shape.METHODS}


def file(section: Section, path: tuple[str, ...], value: str) -> str:
    """A file with one entry that gives one key, and what it cannot be without."""
    body = value
    for name in reversed(path):
        body = f"{{{name}: {body}}}"
    needed = "".join(f"{key.name}: {key.example}, " for key in section.required if key.name != path[0])
    return f"version: 1\n{section.name}: {{x: {{{needed}{body[1:-1]}}}}}\n"


def problems(text: str) -> list[str]:
    """The keys that the reader complains of."""
    try:
        parse(text, SOURCE)
    except ConfigError as error:
        return [problem.key for problem in error.problems]
    return []


def both_take(text: str) -> None:
    assert problems(text) == []
    assert complaints(text) == []


def both_refuse(text: str) -> None:
    assert problems(text), f"the reader takes: {text}"
    assert complaints(text), f"the schema takes: {text}"


# --- its form -------------------------------------------------------------------------------------------------------------------


def test_it_is_a_schema_of_its_draft() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_each_call_makes_a_new_one() -> None:
    json_schema()["properties"].clear()
    assert json_schema() == SCHEMA


def test_it_has_the_keys_of_the_declarations_and_no_others() -> None:
    assert tuple(SCHEMA["properties"]) == TOP_LEVEL
    assert SCHEMA["additionalProperties"] is False
    for section in SECTIONS:
        entry = SCHEMA["$defs"][section.noun.replace(" ", "_")]
        assert list(entry["properties"]) == [key.name for key in section.keys]
        assert entry["additionalProperties"] is False
        assert entry.get("required", []) == [key.name for key in section.required]
    rule = SCHEMA["properties"]["routes"]["items"]
    assert tuple(rule["properties"]) == ROUTE_KEYS
    assert list(rule["properties"]["match"]["properties"]) == [key.name for key in MATCH]
    assert list(SCHEMA["properties"]["pipelines"]["additionalProperties"]["items"]["properties"]) == list(LAYERS)


@pytest.mark.parametrize(("section", "path", "key"), EVERY_KEY)
def test_a_key_is_described_by_its_declaration(section: Section, path: tuple[str, ...], key: Key) -> None:
    schema = SCHEMA["$defs"][section.noun.replace(" ", "_")]
    for name in path:
        schema = schema["properties"][name]
    for option in key.options:
        assert option.doc.lower() in schema["description"].lower()
    assert key.note.lower() in schema["description"].lower()
    if not key.keys:
        assert schema.get("default") == default_of(section, key)


@pytest.mark.parametrize("shape", [shape for shape in Shape if shape is not Shape.GROUP])
def test_every_shape_is_met_by_some_key_here(shape: Shape) -> None:
    keys = [case.values[2] for case in EVERY_KEY]
    assert shape in {key.shape for key in keys} or shape in {Shape.PATH, Shape.GRPC, Shape.PIPELINE}


# --- what the reader takes, the schema takes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "path", "key"), EVERY_KEY)
def test_the_example_of_a_key(section: Section, path: tuple[str, ...], key: Key) -> None:
    both_take(file(section, path, key.example))


@pytest.mark.parametrize(
    ("section", "path", "key"), [case for case in SINGLE_KEYS if default_of(case.values[0], case.values[2]) is not None]
)
def test_a_default_can_be_written_and_changes_nothing(section: Section, path: tuple[str, ...], key: Key) -> None:
    text = json.dumps(default_of(section, key))
    written = file(section, path, text)
    both_take(written)
    bare = written.replace(f"{path[-1]}: {text}", "")
    assert bare != written
    name = section.name
    assert getattr(parse(written, SOURCE), name)["x"] == getattr(parse(bare, SOURCE), name)["x"]


@pytest.mark.parametrize("text", [EXAMPLE, (ROOT / "examples/asgi_app/resilience.yaml").read_text(encoding="utf-8")])
def test_whole_files(text: str) -> None:
    both_take(text)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "health: {}\npipelines: {}\nroutes: []",
        "breakers: {x: {}}\nretries: {x: {}}\nhealth: {x: {}}\ndeadlines: {x: {}}",
        "breakers: {x: {window: 100}, y: {window: 1.5m}, z: {failed_statuses: [], failed_codes: []}}",
        "limiters: {x: {rate: 0.5/10m, key: header:X-Api-Key, trusted_proxies: [10.0.0.1, '::1', 2001:db8::/32]}}",
        "limiters: {x: {rate: 5/s, health: none}, y: {rate: 5/s, health: spare}}\nhealth: {spare: {floor: 1}}",
        "retries: {x: {on: [503, 500..599, UNAVAILABLE, rate_limited], backoff: 0s}, y: {backoff: 1h..1h}}",
        "limiters: {x: {rate: 5/s}}\npipelines: {p: [{limiter: x}]}\nroutes: [{match: {path: /}, pipeline: p}]",
        "routes: [{match: {path: /a//*/**, methods: [GET, M-SEARCH]}, pipeline: none}, {match: {grpc: /**}, pipeline: none}]",
        "store: 'process'",
        '"limiters": {"x": {"rate": "5/s"}}',
        "health: {on: {cut: 0.25}, yes: {cut: '0.25'}}",
    ],
)
def test_what_both_take(body: str) -> None:
    both_take(f"version: 1\n{body}\n")


@pytest.mark.parametrize(
    ("bare", "quoted"),
    [
        (
            "routes: [{match: {path: /a, methods: [5]}, pipeline: none}]",
            "routes: [{match: {path: /a, methods: ['5']}, pipeline: none}]",
        ),
        ("retries: {x: {methods: [5]}}", "retries: {x: {methods: ['5']}}"),
        ("health: {true: {}}\nretries: {x: {health: true}}", "health: {true: {}}\nretries: {x: {health: 'true'}}"),
    ],
)
def test_a_text_that_yaml_takes_for_another_thing_needs_quotes_for_the_schema(bare: str, quoted: str) -> None:
    assert problems(f"version: 1\n{bare}\n") == []
    assert len(complaints(f"version: 1\n{bare}\n")) == 1
    both_take(f"version: 1\n{quoted}\n")


NUMBERS = st.one_of(
    st.integers(0, 3_000).map(str),
    st.integers(0, 10**12).map(str),
    st.decimals(0, 100, places=4, allow_nan=False).map(lambda number: f"{number:f}"),
    st.sampled_from(["0", "0.0", "1", "1.0", "0.99", "0.990", "24", "1440", "86400", "86400.0", "86400000", "3600", "60", "100"]),
)
UNITS = st.sampled_from(["ms", "s", "m", "h"])
DURATIONS = st.builds("{}{}".format, NUMBERS, UNITS)
SHARES = st.one_of(
    st.floats(0, 1).map(lambda number: f"{number:.6f}"), st.integers(0, 101).map("{}%".format), NUMBERS.map("{}%".format)
)
STATUSES = st.one_of(
    st.integers(380, 610).map(str), st.builds("{}..{}".format, st.integers(390, 610), st.integers(390, 610)), st.just("'503'")
)
ODD = st.sampled_from(
    [
        *("true", "false", "none", "default", "[]", "{}", "~", "''", "' '", "'5'", "'0.5'", "+5", "-1", "1e3", "0x10", "010"),
        *("1_000", ".5", "5.", ".inf", "yes", "on", "5", "503", "[503, 503]", "[4xx]", "[10.0.0.1/8]", "[fe80::1%eth0]", "[10]"),
        *("[x]", "[[]]", "[{}]", "[~]", "[true]", "{tokens: 5}", "{tokens: 5, ratio: 0.5}", "header:x-key", "'header: x'"),
    ]
)


def listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=3).map(lambda texts: f"[{', '.join(texts)}]")


FORM_OF_KIND = {
    Kind.DURATION: DURATIONS,
    Kind.SHARE: SHARES,
    Kind.RATE: st.builds("{}/{}{}".format, NUMBERS, st.one_of(st.just(""), NUMBERS), UNITS),
    Kind.COUNT: NUMBERS,
    Kind.NUMBER: NUMBERS,
    Kind.FLAG: st.sampled_from(["true", "false"]),
    Kind.TEXT: st.sampled_from(["failed.db", "'12'", "/run/shop"]),
}
FORM_OF_SHAPE = {
    Shape.WINDOW: st.one_of(DURATIONS, NUMBERS),
    Shape.RANGE: st.one_of(DURATIONS, st.builds("{}..{}".format, DURATIONS, DURATIONS)),
    Shape.STATUSES: listed(STATUSES),
    Shape.NETWORKS: listed(st.ip_addresses().flatmap(lambda address: st.sampled_from([f"'{address}'", f"'{address}/32'"]))),
    Shape.METHODS: listed(st.sampled_from(["GET", "PUT", "M-SEARCH", "'DELETE'", "get"])),
    Shape.SIGNAL: st.sampled_from(["none", "default", "'default'", "spare"]),
    Shape.LIMITER: st.sampled_from(["none", "'none'", "api"]),
    Shape.PIPELINE: st.sampled_from(["none", "'none'", "api"]),
    Shape.METHODS: listed(st.sampled_from(["GET", "POST", "M-SEARCH", "'PUT'", "get", "'G T'"])),
}


def values(key: Key) -> st.SearchStrategy[str]:
    """Values for a key: mostly of its form, in and out of its range, some of another."""
    if key.shape is Shape.GROUP:
        parts = st.fixed_dictionaries({}, optional={part.name: values(part) for part in key.keys})
        form = parts.map(lambda found: f"{{{', '.join(f'{name}: {value}' for name, value in found.items())}}}")
    elif key.shape is Shape.RETRY_ON:
        form = listed(st.one_of(st.sampled_from(key.words), STATUSES))
    elif key.shape is Shape.NAMES:
        form = listed(st.sampled_from(key.words))
    elif key.words and key.shape not in NAMING_SHAPES:
        form = st.sampled_from([*key.words, "header:x-api-key"])
    elif key.shape is Shape.VALUE and key.options[0].kind is Kind.CHOICE:
        form = st.sampled_from([*key.options[0].choices, "neither"])
    elif key.shape is Shape.VALUE and key.options[0].values:
        form = st.sampled_from(["429", "503", "500", "429.0"])
    elif key.shape is Shape.VALUE:
        form = FORM_OF_KIND[key.options[0].kind]
    else:
        form = FORM_OF_SHAPE[key.shape]
    if key.shape is Shape.VALUE and key.options[0].kind is Kind.TEXT:  # what YAML takes for no text needs quotes, as below
        return st.one_of(form, st.sampled_from(["[]", "{}", "~", "''", "' '", "'5'", "[x]"]))
    odd = ODD.filter(lambda value: value != "[10]") if key.shape is Shape.METHODS else ODD  # see the test of quotes below
    return st.one_of(form, form, form, odd)


@pytest.mark.parametrize(("section", "path", "key"), EVERY_KEY)
@settings(max_examples=40)
@given(data=st.data())
def test_any_value_of_a_key(section: Section, path: tuple[str, ...], key: Key, data: st.DataObject) -> None:
    text = file(section, path, data.draw(values(key)))
    if not problems(text):
        assert complaints(text) == []


ENTRIES = {
    section.name: st.fixed_dictionaries(
        {key.name: st.just(key.example) for key in section.required},
        optional={key.name: st.one_of(st.just(key.example), values(key)) for key in section.keys if key not in section.required},
    )
    for section in SECTIONS
}


@given(st.fixed_dictionaries({}, optional=ENTRIES), st.sampled_from(["", "routes: []", "store: process", "store: host"]))
def test_any_values_of_any_keys(sections: dict[str, dict[str, str]], rest: str) -> None:
    entries = {name: ", ".join(f"{key}: {value}" for key, value in keys.items()) for name, keys in sections.items()}
    text = "\n".join(["version: 1", *(f"{name}: {{x: {{{entry}}}}}" for name, entry in entries.items()), rest])
    if not problems(text):
        assert complaints(text) == []


SEGMENTS = st.lists(
    st.sampled_from([*"/*{}<>:?#%ab.\n", "/", "/", "/*", "/**", "/a", "/shop.v1.Orders", "%41", "{id}", ":id"]), max_size=6
).map("".join)


PATTERNS = [
    *(
        "",
        "a",
        "/",
        "//",
        "/a",
        "/a/",
        "/*",
        "/**",
        "/a/*/b",
        "/**/b",
        "/*/*",
        "/**/**",
        "/***",
        "/a*",
        "/*a",
        "/a**",
        "/a/b/c",
        "/a//b",
    ),
    *(
        "/a?b",
        "/a#b",
        "/%41",
        "/a%4",
        "/100%",
        "/{id}",
        "/a/{id}/b",
        "/{id",
        "/x{id}",
        "/<id>",
        "/a/<id>",
        "/:id",
        "/:",
        "/a:b",
        "/a/:id/b",
    ),
    *("/**/a", "/**/a/b", "/**/a/b/c", "/a/**/b", "/a/**", "/**/**/a", "/a/b/**", "/**/*/**/*/**", "/a/**/", "/{id}/**", "/a/:id"),
]


@pytest.mark.parametrize("kind", ["path", "grpc"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_these_patterns_of_a_route(kind: str, pattern: str) -> None:
    text = f'version: 1\nroutes: [{{match: {{{kind}: "{pattern}"}}, pipeline: none}}]\n'
    assert bool(problems(text)) == bool(complaints(text))


@pytest.mark.parametrize("kind", ["path", "grpc"])
@settings(max_examples=200)
@given(pattern=SEGMENTS)
def test_any_pattern_of_a_route(kind: str, pattern: str) -> None:
    quoted = pattern.replace("\n", "\\n")
    text = f'version: 1\nroutes: [{{match: {{{kind}: "{quoted}"}}, pipeline: none}}]\n'
    if pattern.endswith("\n"):  # before which `$` matches too, in Python
        assert problems(text) or not complaints(text)
    else:
        assert bool(problems(text)) == bool(complaints(text))


# --- what is wrong with one key, both refuse --------------------------------------------------------------------------------------


def misspelt(name: str) -> list[str]:
    return [f"{name}s", name[:-1], name.upper(), f"{name[0]}{name}", name.replace("_", "-") if "_" in name else f"x_{name}"]


@pytest.mark.parametrize(("section", "path", "key"), EVERY_KEY)
def test_a_misspelt_key(section: Section, path: tuple[str, ...], key: Key) -> None:
    for name in misspelt(key.name):
        both_refuse(file(section, (*path[:-1], name), key.example))


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_a_misspelt_section(name: str) -> None:
    for wrong in misspelt(name):
        both_refuse(f"version: 1\n{wrong}: {{}}\n")


def outside(option: Option) -> Iterator[str]:
    """Values just outside the range of an option."""
    factor, unit = {Kind.DURATION: (1000, "ms"), Kind.SHARE: (100, "%")}.get(
        option.kind, (1, "/s" if option.kind is Kind.RATE else "")
    )

    def show(value: float) -> str:
        return f"{value * factor:.10g}{unit}"

    step = 1 if option.kind is Kind.COUNT else 0.001
    if option.values:
        yield from (show(value + step) for value in option.values)
    if option.maximum is not None and option.kind is not Kind.RATE:
        yield show(option.maximum + step)
    for lowest in (option.minimum, option.above):
        if lowest is not None and option.kind in (Kind.COUNT, Kind.NUMBER):
            yield show(lowest - step)
    if option.minimum and option.kind in (Kind.DURATION, Kind.SHARE):
        yield show(option.minimum * 0.9)
    if option.above is not None or (option.minimum or 0) > 0:
        yield show(0)


ZEROS = "0" * 40
WRONG_OF_KIND = {
    Kind.DURATION: ["-5s", "5 s", "5sec", "1m30s", "soon", "5", "0", "true", "1e3s", "+5s", ".5s", "05s", f"1.{ZEROS}ms"],
    Kind.SHARE: ["150%", "1.5", "-0.1", "-5%", "70 %", "half", "true", "'1.5'", f"5.{ZEROS}%"],
    Kind.RATE: ["100", "100/x", "0/s", "-1/s", "1/0s", "100 / s", "100/sec", "true", "/s", f"1.{ZEROS}/s"],
    Kind.COUNT: ["1.5", "many", "'5'", "true", "-1", "5s"],
    Kind.NUMBER: ["'2'", "x", "true", "-1", "5s"],
    Kind.FLAG: ["yes", "1", "'true'", "on"],
    Kind.CHOICE: ["neither", "true", "1"],
    Kind.TEXT: ["''"],
}
WRONG_OF_SHAPE = {
    Shape.WINDOW: ["0", "0s", "-1", "1.5", "'100'", "100 calls", "true", "25h", "86401s", "1ms", "0.0001ms", f"1.{ZEROS}s"],
    Shape.RANGE: ["100ms...2s", "100ms..", "..2s", "1..2", "100ms-2s", "5", "true", "1s..2h", "2h", f"1.{ZEROS}ms..1.{ZEROS}s"],
    Shape.NAMES: ["true", "x", "[x]", "[1]", "[[]]", "[~]"],
    Shape.RETRY_ON: ["true", "503", "[]", "[399]", "[600]", "['503']", "[5xx]", "[nothing]", "[503, 503]", "[300..599]", "[~]"],
    Shape.STATUSES: ["true", "503", "[99]", "[600]", "['503']", "[5xx]", "[UNAVAILABLE]", "[503, 503]", "[500..600]", "[~]"],
    Shape.NETWORKS: [
        "true",
        "10.0.0.0/8",
        "[localhost]",
        "[500..599]",
        "[1.2.3]",
        "[10]",
        "[true]",
        "['']",
        "[10.0.0.1, 10.0.0.1]",
        "[~]",
    ],
    Shape.METHODS: ["true", "GET", "[]", "[get]", "['G T']", "[GET, GET]", "[~]"],
    Shape.KEY_SOURCE: ["true", "address", "'header:'", "'header:x y'", "5", "''"],
    Shape.METHODS: ["true", "GET", "[]", "[get]", "['GET ']", "[GET, GET]", "['']", "[~]"],
    Shape.SIGNAL: ["'two words'", "1st", "''", "5"],
    Shape.LIMITER: ["'two words'", "1st", "''", "5"],
    Shape.PIPELINE: ["'two words'", "1st", "''", "5"],
    Shape.STORE: ["true", "memory", "{process: {}}", "redis"],
}
WRONG_OF_ANY = ["[[]]", "{x: 1}", "~", "{}"]


@pytest.mark.parametrize(("section", "path", "key"), SINGLE_KEYS)
def test_a_wrong_value(section: Section, path: tuple[str, ...], key: Key) -> None:
    option = key.options[0]
    wrong = [*WRONG_OF_ANY]
    if key.shape is Shape.VALUE:
        wrong += [*WRONG_OF_KIND[option.kind], *outside(option), "[]"]
    else:
        wrong += WRONG_OF_SHAPE[key.shape]
        wrong += [] if key.shape in LIST_SHAPES else ["[]"]
    for value in wrong:
        text = file(section, path, value)
        both_refuse(text)
        where = ".".join((section.name, "x", *path))
        assert all(key.partition("[")[0] == where for key in problems(text)), text


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
@pytest.mark.parametrize("name", ["none", "1st", "'two words'", "é", "x" * 65, "-x", "''"])
def test_a_name_that_nothing_can_have(section: Section, name: str) -> None:
    needed = "".join(f"{key.name}: {key.example}" for key in section.required)
    both_refuse(f"version: 1\n{section.name}: {{{name}: {{{needed}}}}}\n")


LIMITER = "limiters: {x: {rate: 5/s}, y: {rate: 5/s}}\nretries: {x: {}, y: {}}\n"


@pytest.mark.parametrize(
    "text",
    [
        "limiters: {}",
        "version: 2",
        "version: '1'",
        "version: true",
        "version: 1\nlimiters: {x: {}}",
        "version: 1\nlimiters: {x: 5/s}",
        "version: 1\nlimiters: {x: ~}",
        "version: 1\nlimiters: [x]",
        "version: 1\nlimiters:",
        "version: 1\nroutes: {}",
        "version: 1\nstore: disk",
        f"version: 1\n{LIMITER}pipelines: {{p: []}}",
        f"version: 1\n{LIMITER}pipelines: {{p: {{limiter: x}}}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [limiter]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{}}]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{limiter: x, retry: x}}]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{limiters: x}}]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{limiter: [x]}}]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{limiter: true}}]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{limiter: x}}, {{limiter: x}}]}}",
        f"version: 1\n{LIMITER}pipelines: {{p: [{{retry: x}}, {{retry: y}}]}}",
        "version: 1\nroutes: [{pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a}}]",
        "version: 1\nroutes: [{match: {}, pipeline: none}]",
        "version: 1\nroutes: [{match: {methods: [GET]}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a, grpc: /a/b}, pipeline: none}]",
        "version: 1\nroutes: [{match: {grpc: /a/b, methods: [GET]}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a, method: GET}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a, methods: GET}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a, methods: []}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a, methods: [get]}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a, methods: [GET, GET]}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a}, pipeline: ~}]",
        "version: 1\nroutes: [{match: {path: /a}, pipeline: [x]}]",
        "version: 1\nroutes: [{match: {path: [a]}, pipeline: none}]",
        "version: 1\nroutes: [{match: {path: /a}, pipeline: none, name: x}]",
    ],
)
def test_what_both_refuse(text: str) -> None:
    both_refuse(f"{text}\n")


def test_bounds_that_no_number_has_yet() -> None:
    option = Option(Kind.NUMBER, "", above=0, below=1)
    assert _number("number", option) == {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}


def test_it_underlines_the_key_at_fault() -> None:
    assert complaints("version: 1\nlimiters: {api: {rate: 5/s, bursts: 10}}\n") == [
        "$.limiters.api: Additional properties are not allowed ('bursts' was unexpected)"
    ]
    (complaint,) = complaints("version: 1\nbreakers: {api: {failure_rate: 150%}}\n")
    assert complaint.startswith("$.breakers.api.failure_rate: '150%' does not match ")


def test_files_are_read_here_as_editors_read_them() -> None:
    text = "[010, 0x1F, 1e3, 0.7, 70%, on, yes, 'true', true, ~, 1:30, 1_000, .5, 2001:db8::/32]"
    assert read(text) == [10, 31, 1000.0, 0.7, "70%", "on", "yes", "true", True, None, "1:30", "1_000", 0.5, "2001:db8::/32"]
