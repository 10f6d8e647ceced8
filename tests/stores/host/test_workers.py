"""One limit for all workers of a server: what four of them admit together is what the limit says.

Real time: the short form floods for seconds, the long one for ten, as is promised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.soak.sizes import by_length
from tests.stores.host.flood import flood, gunicorn, shares, wait_for_all

WORKERS: Final = 4
RATE_PER_S: Final = 100
BURST: Final = 100
OFFERED_PER_S: Final = 600
SECONDS: Final = by_length(3.0, 10.0)
TEXT: Final = """\
version: 1
store: {{host: {{directory: {folder}}}}}
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
    config = tmp_path / "resilience.yaml"
    config.write_text(TEXT.format(folder=folder, rate=RATE_PER_S, burst=BURST))
    with gunicorn(config, tmp_path, WORKERS, *options) as port:
        wait_for_all(port, WORKERS)
        answers = flood(port, OFFERED_PER_S, SECONDS)
    assert {answer.status for answer in answers} == {200, 429}
    came = [answer.came_us for answer in answers]
    seconds = (max(came) - min(came)) / 1e6
    admitted = sum(answer.status == 200 for answer in answers)
    offered, had = shares(answers)
    fairness = min(had[worker] / offered[worker] for worker in offered)
    told = f"{admitted} of {len(answers)} in {seconds:.2f} s: {admitted / (BURST + RATE_PER_S * seconds):.4f}"
    record_property("size", f"{told}, shares {fairness:.2f}")
    assert len(answers) >= 4 * RATE_PER_S * seconds
    assert 0.97 <= admitted / (BURST + RATE_PER_S * seconds) <= 1.0, (admitted, seconds)
    assert all(had[worker] >= offered[worker] / 2 for worker in offered), (offered, had)
