"""`resilience diff`: what changes, policy by policy, and what it says of the state."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from resilience.command.changes import Change, policy_changes
from resilience.config import parse
from resilience.config.differences import differences
from tests.command.running import Ran, run, write
from tests.config.reading import EXAMPLE


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def diffed(old: str, new: str) -> Ran:
    Path("old.yaml").write_text(old, encoding="utf-8")
    Path("new.yaml").write_text(new, encoding="utf-8")
    return run("diff", "old.yaml", "new.yaml")


def replaced(*pairs: tuple[str, str]) -> str:
    """The example with these texts replaced."""
    text = EXAMPLE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_what_changes_and_what_becomes_of_the_state() -> None:
    new = replaced(
        ("api:        {rate: 100/s, burst: 200}", "api:        {rate: 50/s, burst: 100}"),
        ("window: 30s", "window: 1m"),
        ("per_client", "per_ip"),
        ("  - {match: {path: /healthz}, pipeline: none}\n", ""),
        ("store: process\n", "  - {match: {path: /healthz}, pipeline: none}\n  - {match: {path: /x}, pipeline: payments}\n"),
        ("{retry: payments}, ", ""),
    )
    assert diffed(EXAMPLE, new) == (
        1,
        """\
old.yaml -> new.yaml

- limiter per_client (line 8 of the old file): removed
    state: drains: calls that wait in it keep their turn; its buckets are given up

~ limiter api (line 7)
    rate   100/s  ->  50/s
    burst  200    ->  100
    state: bucket levels are kept; one above the new burst falls to 100

+ limiter per_ip (line 8): added
    rate      10/s
    burst     20
    key       client_address
    max_keys  100000
    state: starts fresh: every bucket is full
    state: if per_client was renamed to this: the state does not come along, for it goes by the name

~ breaker payments (line 10)
    window  30s  ->  1m
    state: the window restarts empty; state, open timer and probes are kept

~ pipeline api (line 14)
    layers  deadline api, limiter per_client, limiter api  ->  deadline api, limiter per_ip, limiter api
    state: calls under way keep the layers with which they began

~ pipeline payments (line 15)
    layers  deadline api, retry payments, breaker payments  ->  deadline api, breaker payments
    state: calls under way keep the layers with which they began

~ routes, the first match wins
    - /healthz                -> not guarded        moved from here
      GET,POST /orders/**     -> pipeline api
      gRPC /shop.v1.Orders/*  -> pipeline api
    + /healthz                -> not guarded        moved here
    + /x                      -> pipeline payments
    state: requests under way keep the pipeline with which they began

policies and pipelines: 1 added, 1 removed, 4 changed; routes change
""",
        "",
    )


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (EXAMPLE, "nothing changes: the files are the same"),
        (EXAMPLE + "# a comment\n", "nothing changes: the files say the same in other words"),
        (
            replaced(("100/s, burst: 200", "6000/m, burst: 200, cost: 1, health: default"), ("store: process\n", "")),
            "nothing changes: the files say the same in other words",
        ),
        (
            replaced(("health:\n  default: {cut: 70%, recover: 5%, every: 1m}\n", "")),
            "nothing changes: the files say the same in other words",
        ),
    ],
)
def test_the_same_in_other_words_is_no_change(new: str, said: str) -> None:
    assert diffed(EXAMPLE, new) == (0, f"old.yaml -> new.yaml\n\n{said}\n", "")


@pytest.mark.parametrize("order", [("good.yaml", "bad.yaml"), ("bad.yaml", "good.yaml"), ("bad.yaml", "bad.yaml")])
def test_a_bad_file_is_reported_and_nothing_is_compared(tmp_path: Path, order: tuple[str, str]) -> None:
    write(tmp_path, "", "good.yaml")
    write(tmp_path, "limiters: {api: {rate: 5}}\n", "bad.yaml")
    ran = run("diff", *order)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.count("bad.yaml:2:24: error: limiters.api.rate: ") == order.count("bad.yaml")


def test_a_file_that_is_not_there() -> None:
    ran = run("diff", "a.yaml", "-", stdin="version: 1")
    assert ran == (2, "", "a.yaml: error: cannot be read: No such file or directory\n")


def test_one_side_from_standard_input(tmp_path: Path) -> None:
    write(tmp_path, "", "new.yaml")
    assert run("diff", "-", "new.yaml", stdin="version: 1\nlimiters: {a: {rate: 1/s}}\n").status == 1
    assert run("diff", "-", "-", stdin="version: 1").status == 2


def changes(old: str, new: str) -> list[Change]:
    return list(policy_changes(parse(f"version: 1\n{old}\n", "old"), parse(f"version: 1\n{new}\n", "new")))


@pytest.mark.parametrize(
    ("section", "old", "new", "state"),
    [
        ("limiters", "rate: 1/s, burst: 5", "rate: 2/s, burst: 5", ["bucket levels are kept; nothing is refilled"]),
        ("limiters", "rate: 1/s, burst: 5", "rate: 1/s, burst: 9", ["bucket levels are kept; nothing is refilled"]),
        ("limiters", "rate: 9/s", "rate: 5/s", ["bucket levels are kept; one above the new burst falls to 5"]),
        ("limiters", "rate: 1/s", "rate: 1/s, cost: 0", ["bucket levels are kept"]),
        (
            "limiters",
            "rate: 1/s",
            "rate: 5/s, key: client_address",
            ["calls are told apart in another way: each bucket starts full"],
        ),
        ("limiters", "rate: 1/s", "rate: 1/s, health: none", ["bucket levels are kept", "it is not cut any more"]),
        ("limiters", "rate: 1/s", "rate: 1/s, health: x", ["bucket levels are kept", "it goes by the factor of signal x at once"]),
        (
            "limiters",
            "rate: 1/s, key: client_address, max_keys: 9",
            "rate: 1/s, key: client_address, max_keys: 5",
            ["bucket levels are kept", "buckets beyond max_keys go as they become full"],
        ),
        ("limiters", "rate: 1/s, shadow: true", "rate: 1/s", ["bucket levels are kept", "from now on it refuses"]),
        (
            "limiters",
            "rate: 1/s",
            "rate: 1/s, shadow: true",
            ["bucket levels are kept", "from now on it refuses nothing, and counts what it would refuse"],
        ),
        (
            "breakers",
            "probes: 5",
            "probes: 3",
            ["window, state, open timer and probes are kept", "one that is half-open may be decided at once"],
        ),
        ("breakers", "probes: 3", "probes: 5", ["window, state, open timer and probes are kept"]),
        ("breakers", "window: 30s", "window: 100", ["the window restarts empty; state, open timer and probes are kept"]),
        (
            "breakers",
            "key: host",
            "key: method, window: 9s",
            ["calls are told apart in another way: each breaker starts closed, with an empty window"],
        ),
        (
            "breakers",
            "open_for: 30s",
            "open_for: 5s",
            ["window, state, open timer and probes are kept", "one that is open now stays so for the time it began with"],
        ),
        (
            "breakers",
            "",
            "force: open",
            ["held open at once: it refuses every call until this is changed back", "that counts as an opening on default"],
        ),
        (
            "breakers",
            "force: open",
            "",
            ["let go: it is closed, with an empty window", "if it is open, that counts as a closing on default"],
        ),
        (
            "breakers",
            "",
            "health: x",
            [
                "window, state, open timer and probes are kept",
                "if it is open, that counts as a closing on default and as an opening on x",
            ],
        ),
        (
            "breakers",
            "health: x",
            "health: none",
            ["window, state, open timer and probes are kept", "if it is open, that counts as a closing on x"],
        ),
        (
            "breakers",
            "",
            "shadow: true",
            [
                "window, state, open timer and probes are kept",
                "in shadow it writes no signal",
                "if it is open, that counts as a closing on default",
                "from now on it refuses nothing, and counts what it would refuse",
            ],
        ),
        (
            "retries",
            "budget: {tokens: 10}",
            "budget: {tokens: 20}",
            ["the budget keeps the share of its tokens that is left; calls under way go on as they began"],
        ),
        ("deadlines", "max: 1s", "max: 2s", ["calls under way keep their deadline"]),
        (
            "health",
            "cut: 70%",
            "cut: 50%",
            ["the factor reached is kept; steps of recovery count from the change", "cut and floor apply from the next incident"],
        ),
        ("health", "every: 1m", "every: 2m", ["the factor reached is kept; steps of recovery count from the change"]),
    ],
)
def test_what_becomes_of_a_state(section: str, old: str, new: str, state: list[str]) -> None:
    signals = "" if section == "health" else "health: {x: {}}\n"
    (change,) = changes(*(f"{signals}{section}: {{p: {{{settings}}}}}" for settings in (old, new)))
    assert (change.sign, change.name, list(change.state)) == ("~", "p", state)


def test_answers_to_refusals_are_compared_as_they_hold() -> None:
    new = EXAMPLE + "refusals: {open_status: 502, quota_status: 429}\n"
    assert diffed(EXAMPLE, new) == (
        1,
        """\
old.yaml -> new.yaml

~ answers to refusals (line 21)
    open_status  503 (default)  ->  502
    state: holds for what is refused from now on

policies and pipelines: none changes; answers to refusals change
""",
        "",
    )
    assert diffed(new, EXAMPLE).out.splitlines()[2:4] == ["~ answers to refusals", "    open_status  502  ->  503 (default)"]
    assert diffed(EXAMPLE, EXAMPLE + "refusals: {quota_status: 429}\n").status == 0


def test_a_default_that_follows_another_setting_is_told_with_it() -> None:
    (change,) = changes("limiters: {p: {rate: 9/s}}", "limiters: {p: {rate: 5/s}}")
    assert [(setting.key, setting.old, setting.new) for setting in change.settings] == [
        ("rate", "9/s", "5/s"),
        (
            "burst",
            "9 (default: one second's worth of the rate, at least 1)",
            "5 (default: one second's worth of the rate, at least 1)",
        ),
    ]


@pytest.mark.parametrize(
    ("section", "settings", "added", "removed"),
    [
        ("health", "", "starts at 100 %", "an incident on it ends with it"),
        ("deadlines", "", "holds for calls that begin from now on", "calls under way keep their deadline"),
        (
            "limiters",
            "rate: 1/s",
            "starts fresh: every bucket is full",
            "drains: calls that wait in it keep their turn; its buckets are given up",
        ),
        (
            "breakers",
            "",
            "starts fresh: closed, with an empty window",
            "drains: calls under way settle as they began; if it is open, its signal is let go",
        ),
        (
            "breakers",
            "force: open",
            "starts held open; that counts as an opening on default",
            "drains: calls under way settle as they began; if it is open, its signal is let go",
        ),
        ("retries", "", "starts fresh: the budget is full", "drains: calls under way go on as they began; its budget is given up"),
    ],
)
def test_policies_that_come_and_go(section: str, settings: str, added: str, removed: str) -> None:
    entry = f"{section}: {{p: {{{settings}}}}}"
    (came,) = changes("", entry)
    (gone,) = changes(entry, "")
    assert (came.sign, "; ".join(came.state), gone.sign, gone.state) == ("+", added, "-", (removed,))


@pytest.mark.parametrize(
    ("old", "new", "guessed"),
    [
        ("a: {rate: 1/s}", "b: {rate: 1/s}", {"b": "a"}),
        ("a: {rate: 1/s}", "b: {rate: 2/s}", {"b": "a"}),
        ("a: {rate: 1/s}, c: {rate: 3/s}", "b: {rate: 3/s}, d: {rate: 9/s}", {"b": "c"}),
        ("a: {rate: 1/s}", "a: {rate: 1/s}, b: {rate: 1/s}", {}),
    ],
)
def test_what_may_have_been_renamed_is_said_to_start_fresh(old: str, new: str, guessed: dict[str, str]) -> None:
    hint = "if {} was renamed to this: the state does not come along, for it goes by the name"
    found = {
        change.name: change.state[1:] for change in changes(f"limiters: {{{old}}}", f"limiters: {{{new}}}") if change.sign == "+"
    }
    assert found == {name: (hint.format(guessed[name]),) if name in guessed else () for name in found}
    assert set(guessed) <= set(found)


def test_pipelines_that_come_and_go() -> None:
    added = EXAMPLE.replace("routes:\n", "  extra: [{limiter: api}]\nroutes:\n")
    assert "+ pipeline extra (line 16): added\n    layers  limiter api\n" in diffed(EXAMPLE, added).out
    assert (
        "- pipeline extra (line 16 of the old file): removed\n"
        "    state: calls under way end as they began; code that still asks for it by name gets a ConfigError\n"
    ) in diffed(added, EXAMPLE).out


PAIRS = [
    ("limiters: {a: {rate: 9/s}, b: {rate: 9/s}}", "limiters: {a: {rate: 5/s}, b: {rate: 9/s, key: client_address}}"),
    ("breakers: {a: {window: 5s}, b: {}, c: {}}", "breakers: {a: {window: 9s}, b: {key: host}, c: {probes: 3}}"),
    ("breakers: {a: {window: 50}, b: {}}", "breakers: {a: {window: 9s}, c: {}}"),
    ("retries: {a: {}}\ndeadlines: {a: {}}", "retries: {a: {attempts: 4}}\ndeadlines: {b: {}}\nhealth: {x: {}}"),
]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_the_command_says_what_a_running_service_says(old: str, new: str) -> None:
    """A reload tells of the same policies that state is lost, so the two must not come apart."""
    told = differences(parse(f"version: 1\n{old}\n", "old"), parse(f"version: 1\n{new}\n", "new"))
    mine = changes(old, new)
    assert sorted(told.added) == sorted(f"{change.noun} {change.name}" for change in mine if change.sign == "+")
    assert sorted(told.removed) == sorted(f"{change.noun} {change.name}" for change in mine if change.sign == "-")
    fresh = ("starts full", "starts closed", "restarts empty")
    restarted = [change for change in mine if change.sign == "~" and any(word in change.state[0] for word in fresh)]
    assert sorted(text.partition(":")[0] for text in told.restarted) == sorted(f"{one.noun} {one.name}" for one in restarted)


def test_a_shell_s_process_substitution_can_be_compared(tmp_path: Path) -> None:
    """Both sides are then pipes, which have no size and cannot be read twice."""
    Path("old.yaml").write_text(EXAMPLE, encoding="utf-8")
    cats = [subprocess.Popen(["cat", "old.yaml"], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        ran = run("diff", *(f"/dev/fd/{cat.stdout.fileno()}" for cat in cats if cat.stdout is not None))
    finally:
        for cat in cats:
            cat.communicate(timeout=30)
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "nothing changes: the files are the same")
