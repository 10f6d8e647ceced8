"""The section `refusals`: how refused requests are answered."""

from __future__ import annotations

from typing import Any

import pytest

from resilience.config.effective import effective
from resilience.config.schema import REFUSALS, Key
from resilience.refusals import RefusalSettings
from resilience.settings import options_of
from tests.config.editor import complaints
from tests.config.reading import SOURCE, fault, faults, load


def test_every_setting_can_be_set_by_one_key_with_its_own_declaration() -> None:
    assert [key.fields for key in REFUSALS.keys] == [(name,) for name in options_of(RefusalSettings)]
    assert [key.options for key in REFUSALS.keys] == [(option,) for option in options_of(RefusalSettings).values()]
    assert REFUSALS.required == ()


@pytest.mark.parametrize("text", ["", "refusals: {}\n"])
def test_without_keys_it_has_the_defaults(text: str) -> None:
    assert load(text).refusals == RefusalSettings(quota_status=429, open_status=503, deadline_status=504, body="problem")


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("quota_status: 503", {"quota_status": 503}),
        ("open_status: 400", {"open_status": 400}),
        ("deadline_status: 599", {"deadline_status": 599}),
        ("body: none", {"body": "none"}),
        ("body: problem", {}),
        ("quota_status: 420, body: none", {"quota_status": 420, "body": "none"}),
    ],
)
def test_a_key_sets_its_field_and_no_other(key: str, fields: dict[str, Any]) -> None:
    text = f"refusals: {{{key}}}\n"
    assert load(text).refusals == RefusalSettings(**fields)
    assert complaints(f"version: 1\n{text}") == []


@pytest.mark.parametrize("key", REFUSALS.keys, ids=lambda key: key.name)
def test_its_examples_are_read(key: Key) -> None:
    assert load(f"refusals: {{{key.name}: {key.example}}}\n").refusals != RefusalSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("refusals: {quota_status: ▶399}", "refusals.quota_status: must be between 400 and 599, got 399"),
        ("refusals: {open_status: ▶600}", "refusals.open_status: must be between 400 and 599, got 600"),
        ("refusals: {deadline_status: ▶true}", "refusals.deadline_status: must be a whole number, got the truth value 'true'"),
        ("refusals: {body: ▶html}", "refusals.body: must be one of problem, none, got 'html'"),
        ("refusals: ▶none", "refusals: must be a mapping of keys, got 'none'"),
        ("refusals: ▶[429]", "refusals: must be a mapping of keys, got a list"),
        (
            "refusals: {▶reason: 429}",
            "refusals.reason: is unknown; a section of refusals has quota_status, open_status, deadline_status, body",
        ),
        ("refusals: {▶open_state: 503}", "refusals.open_state: is unknown; did you mean 'open_status'?"),
        ("▶refusal: {body: none}", "refusal: is unknown; did you mean 'refusals'?"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, message: str) -> None:
    assert fault(f"version: 1\n{text}\n") == message
    assert complaints(f"version: 1\n{text.replace('▶', '')}\n")


def test_all_of_it_is_told_at_once() -> None:
    found = faults("version: 1\nrefusals:\n  quota_status: 1\n  body: page\n  body: none\n")
    assert [line.partition(": ")[0] for line in found] == ["3:17", "4:9", "5:3"]


def test_each_setting_has_its_line_or_default() -> None:
    document = load("refusals:\n  open_status: 502\n")
    assert document.source == SOURCE
    assert [(setting.key, setting.text, setting.origin) for setting in effective(document, REFUSALS, None)] == [
        ("quota_status", "429", "default"),
        ("open_status", "502", "line 3"),
        ("deadline_status", "504", "default"),
        ("body", "problem", "default"),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quota_status": 200}, "quota_status: must be between 400 and 599, got 200"),
        ({"open_status": 503.0}, "open_status: must be a whole number, got 503.0"),
        ({"body": "html"}, "body: must be one of problem, none, got 'html'"),
    ],
)
def test_in_code_it_is_checked_too(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"RefusalSettings.{message}"):
        RefusalSettings(**fields)
