"""A million clients in one table of the host: what each costs, and that nobody is forgotten who has spent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soak.sizes import by_length

pytestmark = [pytest.mark.soak, pytest.mark.slow]

KEYS: Final = by_length(40_000, 1_000_000)
ROOT: Final = Path(__file__).parents[3]
CROWD: Final = """
import json, resource, sys
from fractions import Fraction
from pathlib import Path
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import pace_of
from resilience.stores.host import HostStore
from resilience.stores.settings import HostStoreSettings
from resilience.testing import ManualClock

folder, keys = sys.argv[1], int(sys.argv[2])

def memory_kb():
    # Of this process alone, without the file that it shares.
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0])

clock = ManualClock()
store = HostStore(HostStoreSettings("crowd", folder), clock, beats=False)
store.buckets.prepare("limit", keys)
pace = pace_of(Fraction(1, 1000), 2, 0)

def taken(key):
    return store.buckets.take(Take("limit", key, pace, pace.capacity, 1)).taken

old = [taken("old") for _ in range(3)]
before_kb = memory_kb()
had = sum(taken(f"198.51.{number}") for number in range(keys - 1))
after_kb = memory_kb()
table = store.buckets._keyed["limit"]
print(json.dumps({
    "old": old, "had": had, "old_after": taken("old"), "keys": table.keys, "overflowed": table.overflowed,
    "file_bytes": sum(path.stat().st_blocks * 512 for path in Path(folder).rglob("*") if path.is_file()),
    "own_bytes": (after_kb - before_kb) * 1024,
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_key_costs_less_than_160_bytes(folder: Path, record_property: Callable[[str, object], None]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(folder), str(KEYS)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    bytes_a_key = (seen["file_bytes"] + seen["own_bytes"]) / KEYS
    record_property("size", f"{KEYS:,} keys, {bytes_a_key:.0f} bytes each, {seen['overflowed']:,} without a place of their own")
    assert bytes_a_key <= 160
    assert seen["old"] == [1, 1, 0]
    assert seen["old_after"] == 0, "who had spent is still known"
    assert seen["keys"] <= KEYS
    assert seen["overflowed"] <= 16
    assert seen["had"] >= KEYS - 1 - 16
