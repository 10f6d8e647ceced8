"""One limit for all workers of a server: what four of them admit together is what the limit says.

Real time: the short form floods for seconds, the long one for ten, as is promised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.soak.sizes import by_length
from tests.stores.host.flood import Answered, flood, gunicorn, lasted_s, shares, wait_for_all

WORKERS: Final = 4
RATE_PER_S: Final = 100
OFFERED: Final = 6
SECONDS: Final = by_length(3.0, 10.0)
TEXT: Final = """\
version: 1
store: {{host: {{directory: {folder}, name: {name}}}}}
limiters:
  api: {{rate: {rate}/s, burst: {burst}}}
pipelines:
  api: [{{limiter: api}}]
routes:
  - {{match: {{path: /up}}, pipeline: none}}
  - {{match: {{path: "/**"}}, pipeline: api}}
"""

pytestmark = [pytest.mark.soak, pytest.mark.slow]


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["gunicorn", "gunicorn --preload"])
def test_four_workers_admit_what_one_limit_allows(
    folder: Path, tmp_path: Path, options: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    rate, answers = RATE_PER_S, flooded(folder, tmp_path, RATE_PER_S, options)
    for _ in range(2):
        if is_enough(answers, rate):
            break
        # A machine that is busy with other things cannot ask for so much: the limit must be one that it can ask four times of.
        rate = max(1, int(len(answers) / lasted_s(answers) / 8))
        answers = flooded(folder, tmp_path, rate, options)
    assert {answer.status for answer in answers} == {200, 429}
    seconds = lasted_s(answers)
    admitted = sum(answer.status == 200 for answer in answers)
    bound = rate + rate * seconds
    offered, had = shares(answers)
    fairness = min(had[worker] / offered[worker] for worker in offered)
    told = f"{admitted} of {len(answers)} in {seconds:.2f} s at {rate}/s: {admitted / bound:.4f}"
    record_property("size", f"{told}, shares {fairness:.2f}")
    assert is_enough(answers, rate), told
    # A worker that has waited 5 ms for the lock decides by its share; the bucket is told a moment later.
    alone = sum(max(answer.alone for answer in answers if answer.worker == worker) for worker in offered)
    assert 0.97 * bound <= admitted <= bound + alone, (told, alone)
    assert all(had[worker] >= offered[worker] / 2 for worker in offered), (offered, had)


def flooded(folder: Path, tmp_path: Path, rate: int, options: tuple[str, ...]) -> list[Answered]:
    """What came of six times the limit, in a service of its own whose bucket is full at first."""
    config = tmp_path / f"at{rate}.yaml"
    config.write_text(TEXT.format(folder=folder, rate=rate, burst=rate, name=f"at{rate}"))
    with gunicorn(config, tmp_path, WORKERS, *options) as port:
        wait_for_all(port, WORKERS)
        return flood(port, OFFERED * rate, SECONDS)


def is_enough(answers: list[Answered], rate: int) -> bool:
    return len(answers) >= 4 * rate * lasted_s(answers)
