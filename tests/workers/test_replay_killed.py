"""A process that is killed in the middle of a replay: nothing is lost, and what is committed with its key happens once."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from resilience.workers import FailedTask, FailedTaskStore, TaskState, create_effects_table
from tests.soak.sizes import by_length

pytestmark = [pytest.mark.soak]

ROOT: Final = Path(__file__).parents[2]
KILLS: Final = by_length(2, 100)
TASKS: Final = 12
LEASE_S: Final = 0.05

REPLAYER: Final = """
import sqlite3, sys
from resilience.workers import FailedTaskStore, TaskState, first_time, task

store_path, shop_path, lease_s = sys.argv[1:]
shop = sqlite3.connect(shop_path, timeout=30)

@task(name="charge")
def charge(order):
    print("at work", flush=True)
    shop.execute("INSERT INTO tries VALUES (?)", (order,)); shop.commit()
    with shop:
        if first_time(shop):
            shop.execute("INSERT INTO charges VALUES (?)", (order,))

store = FailedTaskStore(store_path, lease_s=float(lease_s))
while left := store.list(state=TaskState.FAILED):
    for found in left:
        store.replay(found.id)
"""


def replaying(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", REPLAYER, str(tmp_path / "failed.db"), str(tmp_path / "shop.db"), str(LEASE_S)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_9_in_the_middle_of_a_replay(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    shop = sqlite3.connect(tmp_path / "shop.db")
    create_effects_table(shop)
    shop.execute("CREATE TABLE tries (number TEXT)")
    shop.execute("CREATE TABLE charges (number TEXT)")
    shop.commit()
    store = FailedTaskStore(tmp_path / "failed.db")
    chance = random.Random(7)
    kills = killed_at_work = orders = 0
    while kills < KILLS:
        left = store.list(state=TaskState.FAILED, limit=1_000)
        for _ in range(TASKS - len(left)):
            orders += 1
            payload = f'{{"args":["order-{orders}"],"kwargs":{{}}}}'
            store.keep(FailedTask(f"{orders:032x}", "charge", "shop", payload, f"key-{orders}", "e", "t", 1, 1e9, 1e9 + orders))
        process = replaying(tmp_path)
        assert process.stdout is not None
        begun = process.stdout.readline()
        assert begun == "at work\n"
        time.sleep(chance.uniform(0, 0.03))  # anywhere in the work, in the commit, or between two tasks
        process.kill()
        process.wait(30)
        process.stdout.close()
        kills += 1
        killed_at_work += bool(store.list(state=None, limit=1_000) and process.returncode == -9)
        assert len(store.list(limit=10_000)) == orders, "nothing is lost"
    deadline_s = time.monotonic() + 60
    while store.list(state=TaskState.FAILED) or store.list(state=TaskState.REPLAYING):
        assert time.monotonic() < deadline_s
        assert replaying(tmp_path).communicate(timeout=60)
    record_property("size", f"{kills} kills, {orders} tasks")
    charges = [number for (number,) in shop.execute("SELECT number FROM charges ORDER BY rowid")]
    tries = shop.execute("SELECT count(*) FROM tries").fetchone()[0]
    shop.close()
    assert sorted(charges, key=lambda number: int(number[6:])) == [f"order-{number}" for number in range(1, orders + 1)]
    assert tries >= orders, "at least once"
    assert {task.state for task in store.list(limit=10_000)} == {TaskState.REPLAYED}
    assert killed_at_work == kills
    store.close()
