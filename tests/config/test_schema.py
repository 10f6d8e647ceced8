"""The declarations fit the settings they set and the keys that the format promises."""

from __future__ import annotations

import dataclasses

import pytest

from resilience.config.schema import BREAKERS, DEADLINES, HEALTH, LAYERS, LIMITERS, POOLS, RETRIES, SECTIONS, Section, Shape
from resilience.settings import Option, options_of

PROMISED = {
    HEALTH: "cut recover every floor",
    DEADLINES: "default max reserve read write streams",
    LIMITERS: "rate burst key cost max_wait max_keys status fields trusted_proxies health store on_store_error shadow",
    BREAKERS: "failure_rate window min_calls slow_call slow_call_rate consecutive_failures open_for open_growth open_max "
    "probes half_open_for failed_statuses failed_codes key max_keys health force shadow",
    RETRIES: "attempts backoff jitter on methods max_advice budget when_nested health",
    POOLS: "min_workers max_workers queue timeout pool_timeout drain_timeout ageing grow_wait grow_by shrink_by cool_down "
    "max_abandoned limiter pipeline health failed",
}

every_section = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)


@every_section
def test_a_section_has_the_keys_that_are_promised(section: Section) -> None:
    assert {key.name for key in section.keys} == set(PROMISED[section].split())


@every_section
def test_every_setting_can_be_set_by_exactly_one_key(section: Section) -> None:
    fields = [field for key in section.keys for field in key.fields if field in section.setting_fields]
    assert sorted(fields) == sorted(field.name for field in dataclasses.fields(section.settings))


@every_section
def test_a_key_has_the_declarations_of_the_settings_themselves(section: Section) -> None:
    declared = options_of(section.settings)
    for key in section.keys:
        for field, option in zip(key.fields, key.options, strict=True):
            assert isinstance(option, Option)
            assert option.doc
            if field in declared:
                assert option is declared[field]


@every_section
def test_what_a_key_implies_can_be_set_and_is_no_field_of_its_own(section: Section) -> None:
    for key in section.keys:
        implied = {field for field, _ in key.implied}
        assert implied <= section.setting_fields
        assert not implied & set(key.fields)


def test_only_a_limiter_needs_a_key() -> None:
    assert {section.name: [key.name for key in section.required] for section in SECTIONS} == {
        "health": [],
        "deadlines": [],
        "limiters": ["rate"],
        "breakers": [],
        "retries": [],
        "pools": [],
    }


def test_a_group_holds_the_fields_of_the_keys_within() -> None:
    (budget,) = [key for key in RETRIES.keys if key.shape is Shape.GROUP]
    assert budget.name == "budget"
    assert [key.name for key in budget.keys] == ["tokens", "ratio"]
    assert budget.fields == ("budget_tokens", "budget_ratio")


def test_pipelines_refer_to_every_section_but_health_and_pools() -> None:
    assert {noun: section.name for noun, section in LAYERS.items()} == {
        "deadline": "deadlines",
        "limiter": "limiters",
        "breaker": "breakers",
        "retry": "retries",
    }
