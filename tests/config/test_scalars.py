"""Whole numbers, numbers, truth values and texts, as a YAML scalar spells them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config.nodes import ScalarNode, compose
from resilience.config.report import Report
from resilience.config.scalars import parse_count, parse_flag, parse_number, parse_text
from tests.config.reading import refusal


def scalar(yaml_text: str) -> ScalarNode:
    node = compose(f"- {yaml_text}\n", Report("test"))
    item = getattr(node, "items")[0]  # noqa: B009 - a list, or the test is wrong
    assert isinstance(item, ScalarNode)
    return item


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("7", 7), ("-3", -3), ("1000000", 1_000_000), ("9" * 18, 10**18 - 1)])
def test_counts(text: str, count: int) -> None:
    found = parse_count(scalar(text))
    assert found == count
    assert type(found) is int


COUNT = "must be a whole number, got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("010", COUNT + "'010'; YAML reads it as octal; write 10 or 8"),
        ("00", COUNT + "'00'; write 0"),
        ("07", COUNT + "'07'; write 7"),
        ("0x10", COUNT + "'0x10'; write 16"),
        ("0b11", COUNT + "'0b11'; write 3"),
        ("1e3", COUNT + "'1e3'; write 1000"),
        ("5.0", COUNT + "'5.0'; write 5"),
        ("5.5", COUNT + "'5.5'"),
        ("1_000", COUNT + "'1_000'; write 1000"),
        ("1,000", COUNT + "'1,000'; write 1000"),
        ("+5", COUNT + "'+5'; write 5"),
        ("1:30", COUNT + "'1:30'"),
        (".nan", COUNT + "'.nan'"),
        (".inf", COUNT + "'.inf'"),
        ("inf", COUNT + "'inf'"),
        ("1e999999999", COUNT + "'1e999999999'"),
        ("true", COUNT + "the truth value 'true'"),
        ("yes", COUNT + "the truth value 'yes'"),
        ("'200'", COUNT + "the text '200'; write it without quotes"),
        ('"x"', COUNT + "the text 'x'; write it without quotes"),
        ("", COUNT + "nothing; leave the key out to leave it unset"),
        ("~", COUNT + "nothing; leave the key out to leave it unset"),
        ("null", COUNT + "nothing; leave the key out to leave it unset"),
        ("ten", COUNT + "'ten'"),
        ("٣", COUNT + "'٣'"),
        ("2001-01-01", COUNT + "'2001-01-01'"),
        ("9" * 19, "must be a whole number of at most 18 digits, got 19 digits"),
        ("9" * 60_000, "must be a whole number of at most 18 digits, got 60000 digits"),
        ("-" + "9" * 60_000, "must be a whole number of at most 18 digits, got 60000 digits"),
        ("0" * 60_000, COUNT + "'" + "0" * 56 + "...'"),
    ],
)
def test_what_is_no_count(text: str, message: str) -> None:
    assert refusal(parse_count, scalar(text)) == message


@pytest.mark.parametrize(("text", "number"), [("2", 2.0), ("0.1", 0.1), ("-1.5", -1.5), ("0", 0.0)])
def test_numbers(text: str, number: float) -> None:
    assert parse_number(scalar(text)) == number


NUMBER = "must be a number, got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e3", NUMBER + "'1e3'; write 1000"),
        ("1.5e-1", NUMBER + "'1.5e-1'; write 0.15"),
        ("1e-9", NUMBER + "'1e-9'; write it as a plain decimal"),
        (".5", NUMBER + "'.5'; write 0.5"),
        ("5.", NUMBER + "'5.'; write 5"),
        ("+1", NUMBER + "'+1'; write 1"),
        ("01", NUMBER + "'01'; write 1"),
        (".inf", NUMBER + "'.inf'"),
        (".NaN", NUMBER + "'.NaN'"),
        ("true", NUMBER + "the truth value 'true'"),
        ("'0.1'", NUMBER + "the text '0.1'; write it without quotes"),
        ("", NUMBER + "nothing; leave the key out to leave it unset"),
        ("0." + "1" * 60_000, "must be a number of at most 40 characters, got 60002 characters"),
    ],
)
def test_what_is_no_number(text: str, message: str) -> None:
    assert refusal(parse_number, scalar(text)) == message


def test_flags() -> None:
    assert parse_flag(scalar("true")) is True
    assert parse_flag(scalar("false")) is False


FLAG = "must be true or false, got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yes", FLAG + "'yes'; write true"),
        ("on", FLAG + "'on'; write true"),
        ("True", FLAG + "'True'; write true"),
        ("NO", FLAG + "'NO'; write false"),
        ("off", FLAG + "'off'; write false"),
        ("1", FLAG + "'1'"),
        ("'true'", FLAG + "the text 'true'; write it without quotes"),
        ("", FLAG + "nothing; leave the key out to leave it unset"),
    ],
)
def test_what_is_no_flag(text: str, message: str) -> None:
    assert refusal(parse_flag, scalar(text)) == message


@pytest.mark.parametrize("text", ["on", "404", "1e3", "true", "x y"])
def test_a_text_is_what_is_written(text: str) -> None:
    assert parse_text(scalar(text)) == text
    assert parse_text(scalar(f"'{text}'")) == text


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("null", "nothing"), ("''", "an empty one")])
def test_what_is_no_text(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"must be text, got {found}"):
        parse_text(scalar(text))


@given(st.text(max_size=50), st.sampled_from(["str", "int", "float", "bool", "null"]), st.booleans())
def test_any_scalar_is_read_or_refused(text: str, tag: str, plain: bool) -> None:
    node = ScalarNode((1, 1), text, tag, plain)  # type: ignore[arg-type]
    for parse in (parse_count, parse_number, parse_flag, parse_text):
        assert refusal(parse, node).isprintable()
