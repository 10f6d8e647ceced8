"""Four processes take from one store as fast as they can, and one after the other is killed with kill -9 at any instant."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from resilience.clock import SYSTEM_CLOCK
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.host import HostStore
from resilience.stores.settings import HostStoreSettings
from tests.soak.sizes import by_length
from tests.stores.host.hammering import BURST, KEY_BURST, KEY_RATE_PER_S, KEYED, KEYS, PLAIN, RATE_PER_S

ROOT: Final = Path(__file__).parents[3]
SECONDS: Final = by_length(3.0, 120.0)

pytestmark = [pytest.mark.soak, pytest.mark.slow]


def test_kill_9_at_any_instant(folder: Path, record_property: Callable[[str, object], None]) -> None:
    seed = random.randrange(1 << 30)
    done = subprocess.run(
        [sys.executable, "-m", "tests.stores.host.hammering", str(folder), str(SECONDS), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    record_property("size", f"{told['killed']:,} kills over {told['seconds']:.0f} s, {told['decisions']:,} decisions")
    assert told["ended_by_themselves"] == 0, done.stderr
    assert told["killed"] > SECONDS * 5
    plain, keyed = BURST + RATE_PER_S * told["seconds"], KEYS * (KEY_BURST + KEY_RATE_PER_S * told["seconds"])
    assert told["plain"] <= plain, told
    assert told["keyed"] <= keyed, told
    # Who is killed between having its token and counting it loses one; in the middle of writing, what is in that bucket.
    assert told["plain"] >= 0.97 * plain - BURST - 2 * told["killed"], told
    store = HostStore(HostStoreSettings("hammer", str(folder)), SYSTEM_CLOCK, beats=False)
    for question in (Take("plain", None, PLAIN, PLAIN.capacity, 0), Take("keyed", "0", KEYED, KEYED.capacity, 0)):
        answer = store.buckets.take(question)
        assert isinstance(answer, Decided), "the locks of the killed are free"
        assert 0 <= answer.units <= question.pace.capacity
    store.close()
