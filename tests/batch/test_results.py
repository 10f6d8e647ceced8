"""Results raise nothing unless they are asked to."""

from __future__ import annotations

import pytest

from resilience import CircuitOpen, Rejected, ResilienceError
from resilience.batch import BatchFailed, Err, Kind, Ok, Results
from resilience.edges import relayed_in

BAD = Err(ValueError("no"), Kind.BUSINESS)
OPEN = Err(CircuitOpen(policy="stock", reason="open", retry_after_s=3.0), Kind.REFUSED)


def results(*of: Ok[int] | Err) -> Results[int]:
    return Results(list(of), "prices")


def test_it_is_a_sequence_with_its_values_and_errors() -> None:
    found = results(Ok(1), BAD, Ok(2))
    assert (len(found), found[0], found[1:], list(found)) == (3, Ok(1), [BAD, Ok(2)], [Ok(1), BAD, Ok(2)])
    assert (found.values(), found.errors()) == ([1, 2], [BAD])
    assert found.failed_share == pytest.approx(1 / 3)
    assert repr(found) == "Results('prices', 2 of 3 ok)"
    assert [result.ok for result in found] == [True, False, True]


def test_a_result_can_be_matched() -> None:
    match results(Ok(1))[0]:
        case Ok(value):
            assert value == 1
        case Err():
            pytest.fail("it is an Ok")


def test_it_raises_where_all_failed_and_only_then() -> None:
    results(Ok(1), BAD).raise_if_all_failed()
    with pytest.raises(BatchFailed) as caught:
        results(BAD, OPEN).raise_if_all_failed()
    assert str(caught.value).startswith("prices: 2 of 2 calls failed (1 business, 1 refused)")
    assert caught.value.exceptions == (BAD.error, OPEN.error)
    assert isinstance(caught.value, ResilienceError)


@pytest.mark.parametrize(("share", "raises"), [(0.0, True), (0.3, True), (1 / 3, False), (0.5, False), (1.0, False)])
def test_it_raises_over_a_share(share: float, raises: bool) -> None:
    found = results(Ok(1), Ok(2), BAD)
    if raises:
        with pytest.raises(BatchFailed):
            found.raise_if_failed_over(share)
    else:
        found.raise_if_failed_over(share)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ValueError, match="share: must be from 0 to 1"):
        results(Ok(1)).raise_if_failed_over(share)


def test_the_group_can_be_taken_apart() -> None:
    group = results(Ok(1), BAD, OPEN).exception_group()
    assert group is not None
    refused, rest = group.split(Rejected)
    assert isinstance(refused, BatchFailed)
    assert (refused.exceptions, rest and rest.exceptions) == ((OPEN.error,), (BAD.error,))


def test_a_batch_of_refusals_that_leaves_a_handler_is_answered_as_one() -> None:
    group = results(OPEN, OPEN).exception_group()
    assert group is not None
    assert relayed_in(group) is OPEN.error


def test_a_share_of_failures_that_is_met_exactly_is_not_over_it() -> None:
    some = results(*[BAD] * 29, *[Ok(1)] * 71)
    some.raise_if_failed_over(0.29)
    with pytest.raises(BatchFailed):
        some.raise_if_failed_over(0.28)
