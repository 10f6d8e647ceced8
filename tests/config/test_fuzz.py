"""Whatever a file holds, it is a document or a `ConfigError` whose messages can be printed."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilience.config import Document, RouteTable, parse
from resilience.config.source import MAX_BYTES
from resilience.errors import ConfigError
from tests.config.reading import EXAMPLE

TOKENS = st.sampled_from(
    [
        *"[]{},:?-&*!|>'\"%@`#~\\\t\n \r\x00\x1b\x85\u2028\ufeff\ud800é٣",
        "\n  ", ": ", "- ", "? ", "<<: ", "&a ", "*a ", "!!int ", "!!python/object:os.system ", "---\n", "...\n",
        "%YAML 1.1\n", '"\\U', "true", "null", ".nan", "0x10", "1e999", "9" * 50, "5s", "70%", "5/s", "1s..2s",
        "version: 1\n", "limiters:", "limiters: {a: {rate: 5/s}}\n", "breakers: {a: {}}\n", "routes:\n", "pipelines: ",
        "health", "none", "default", "{match: {path: ", "/**", "pipeline",
    ]
)  # fmt: skip

HOSTILE = {
    "open lists": "[" * MAX_BYTES,
    "open mappings": "{" * MAX_BYTES,
    "dashes": "- " * (MAX_BYTES // 2),
    "question marks": "? " * (MAX_BYTES // 2),
    "question marks on lines": "? a\n" * 10_000,
    "nested brackets": "[" * 10_000 + "]" * 10_000,
    "indented keys": "".join(f"{' ' * depth}a:\n" for depth in range(350)),
    "many empty lists": "version: 1\nx: " + "[" * 30 + "[]," * 20_000,
    "alias bomb": "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]\n" for n in range(1, 400)),
    "merge bomb": "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 20)}]}}\n" for n in range(1, 400)),
    "anchor on itself": "&a [*a]",
    "python object": "!!python/object/apply:os.system ['exit 1']",
    "tabs": "\t" * 1_000 + "version: 1",
    "NUL": "version: 1\0",
    "escape beyond Unicode": 'version: "\\UFFFFFFFF"',
    "escaped surrogate": 'version: "\\uD800"',
    "surrogate as a name": 'version: 1\nlimiters: {"\\uD800": {"\\uD800": 1}}',
    "directive beyond int": "%YAML 1." + "1" * 60_000,
    "digits": "version: " + "9" * 60_000,
    "digits and underscores": "version: 1\nlimiters: {a: {rate: 5/s, burst: " + "1_" * 30_000 + "}}",
    "base 60": "version: 1\nlimiters: {a: {rate: 5/s, burst: " + "1:" * 30_000 + "0}}",
    "exponent": "version: 1\nlimiters: {a: {rate: 5/s, burst: 1e999999999}}",
    "huge duration": "version: 1\ndeadlines: {a: {default: " + "9" * 39 + "h}}",
    "repeated key": "version: 1\n" + "a: 1\n" * 13_000,
    "unknown keys": "version: 1\n" + "".join(f"k{n}: \n" for n in range(8_000)),
    "long names that resemble each other": "version: 1\nlimiters:\n"
    + "".join(f"  {n:0>50b}x: {{}}\n".replace("0", "o").replace("1", "l") for n in range(900)),
    "many layers": f"version: 1\npipelines: {{p: [{', '.join(f'{{limiter: b{n}}}' for n in range(2_500))}]}}",
    "comment": "#" * MAX_BYTES,
    "quoted line ends": 'version: "' + "\\n" * 30_000 + '"',
    "block scalar": "version: |\n" + " x\n" * 20_000,
}  # fmt: skip


def outcome(content: str | bytes) -> Document | ConfigError:
    """What comes of `content`; nothing but these two can."""
    try:
        document = parse(content, "fuzz.yaml")
    except ConfigError as error:
        check_problems(error)
        return error
    RouteTable(document.routes).find("GET", "/a/b")
    return document


def check_problems(error: ConfigError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert str(problem).isprintable()
        assert len(problem.message) <= 400
    places = [(problem.line, problem.column) for problem in error.problems]
    assert places == sorted(places)


@given(st.text())
@example("version: 1")
def test_any_text(text: str) -> None:
    outcome(text)


@given(st.binary())
@example(b"version: 1")
@example(b"\xff\xfev\x00")
def test_any_bytes(data: bytes) -> None:
    outcome(data)


@given(st.lists(TOKENS, max_size=40).map("".join))
def test_any_sequence_of_what_yaml_is_made_of(text: str) -> None:
    outcome(text)


@given(st.integers(0, len(EXAMPLE)), st.integers(0, 20), st.lists(TOKENS, max_size=3).map("".join))
def test_the_example_with_any_part_of_it_replaced(start: int, length: int, put: str) -> None:
    outcome(EXAMPLE[:start] + put + EXAMPLE[start + length :])


VALUES = st.recursive(
    st.sampled_from(
        ["5s", "70%", "5/s", "5", "x", "none", "true", "~", "''", "[]", "{}", "host", "api", "503", "5xx", "500..599", "/a"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["rate", "match", "path", "limiter", "key", "api", "on"]), inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "version",
        "health",
        "deadlines",
        "limiters",
        "breakers",
        "retries",
        "pipelines",
        "routes",
        "store",
        "api",
        "default",
        "rate",
        "burst",
        "key",
        "cost",
        "window",
        "backoff",
        "on",
        "budget",
        "tokens",
        "match",
        "path",
        "methods",
        "grpc",
        "pipeline",
        "trusted_proxies",
        "failed_statuses",
        "failed_codes",
    ]
)
NESTED = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=6)


@given(NESTED)
def test_any_value_under_any_key(sections: dict[str, dict[str, str]]) -> None:
    lines = ["version: 1"]
    for name, keys in sections.items():
        if name != "version":
            lines.append(f"{name}: {{{', '.join(f'{key}: {{{key}: {value}}}' for key, value in keys.items())}}}")
    outcome("\n".join(lines))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    content = HOSTILE[name]
    assert len(content.encode("utf-8", "surrogatepass")) <= MAX_BYTES, "so that it is not merely too long"
    assert isinstance(outcome(content), ConfigError)
    outcome(content.encode("utf-8", "surrogatepass"))
