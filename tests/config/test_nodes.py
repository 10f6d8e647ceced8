"""The tree of nodes: like PyYAML's own, and refused where YAML offers more than a configuration needs."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from resilience.config.nodes import MAX_DEPTH, ListNode, MappingNode, Node, ScalarNode, compose
from resilience.config.report import Report
from tests.config.reading import EXAMPLE, fault, faults

SCALARS = st.sampled_from(["", "a", "on", "1", "0x1f", "1.5", "null", "2001-01-01", "'q'", '"d\\n"', "a b", "~"])


@st.composite
def flow(draw: st.DrawFn, depth: int = 4) -> str:
    kind = draw(st.integers(0, 2)) if depth else 0
    if kind == 0:
        return draw(SCALARS.filter(bool))
    inner = draw(st.lists(flow(depth - 1), max_size=4))
    if kind == 1:
        return f"[{', '.join(inner)}]"
    return "{" + ", ".join(f"{draw(SCALARS.filter(bool))}: {value}" for value in inner) + "}"


@st.composite
def block(draw: st.DrawFn, indent: int = 0) -> str:
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(SCALARS.filter(bool))
        if indent < 6 and draw(st.booleans()):
            lines.append(f"{' ' * indent}{key}:\n{draw(block(indent + 2))}")
        else:
            lines.append(f"{' ' * indent}{key}: {draw(flow())}\n")
    return "".join(lines)


def as_yaml(node: Node) -> object:
    """A node in a form that two readers can be compared in."""
    if isinstance(node, ListNode):
        return (*node.position, [as_yaml(item) for item in node.items])
    if isinstance(node, MappingNode):
        return (*node.position, [(as_yaml(key), as_yaml(value)) for key, value in node.pairs])
    return (*node.position, node.tag, node.text)


def as_pyyaml(node: yaml.Node | None) -> object:
    assert node is not None
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return (*place, [as_pyyaml(item) for item in node.value])
    if isinstance(node, yaml.MappingNode):
        return (*place, [(as_pyyaml(key), as_pyyaml(value)) for key, value in node.value])
    return (*place, node.tag.removeprefix("tag:yaml.org,2002:"), node.value)


@given(block() | flow())
def test_the_tree_is_the_one_that_pyyaml_composes(text: str) -> None:
    report = Report("test")
    mine = compose(text, report)
    assert mine is not None, report.problems
    assert as_yaml(mine) == as_pyyaml(yaml.compose(text, Loader=yaml.SafeLoader))


def test_the_example_has_the_tree_that_pyyaml_composes() -> None:
    mine = compose(EXAMPLE, Report("test"))
    assert mine is not None
    assert as_yaml(mine) == as_pyyaml(yaml.compose(EXAMPLE, Loader=yaml.SafeLoader))


def test_a_scalar_knows_whether_it_is_quoted() -> None:
    root = compose("[a, 'b', \"c\"]", Report("test"))
    assert isinstance(root, ListNode)
    assert [item.plain for item in root.items if isinstance(item, ScalarNode)] == [True, False, False]


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("version: 1\nstore: ▶*store\n", "an alias (*name) is not allowed; write the value out"),
        ("version: 1\nstore: ▶&store process\n", "an anchor (&name) is not allowed; remove it"),
        ("version: ▶!!int 1\n", "a tag (!name) is not allowed; remove it"),
        ("version: ▶! 1\n", "a tag (!name) is not allowed; remove it"),
        ("version: 1\nstore: ▶!!python/object/apply:os.system [id]\n", "a tag (!name) is not allowed; remove it"),
        ("▶%YAML 1.2\n---\nversion: 1\n", "a directive (%YAML, %TAG) is not allowed; remove the line"),
        ("▶%TAG ! tag:x,2000:\n---\nversion: 1\n", "a directive (%YAML, %TAG) is not allowed; remove the line"),
        ("version: 1\n▶---\nversion: 1\n", "a second document starts here; a file holds one"),
        ("version: 1\n...\n▶---\n...\n", "a second document starts here; a file holds one"),
        ("▶", "the file is empty; the least it can say is: version: 1"),
        ("▶# a comment\n\n", "the file is empty; the least it can say is: version: 1"),
        ("▶---\n", "the file is empty; the least it can say is: version: 1"),
        ("▶- version: 1\n", "must be a mapping that begins with version: 1, got a list"),
        ("▶version 1\n", "must be a mapping that begins with version: 1, got 'version 1'"),
        ("▶null\n", "must be a mapping that begins with version: 1, got nothing; write {} for an empty one"),
    ],
)
def test_what_of_yaml_is_refused(marked: str, message: str) -> None:
    assert fault(marked) == message


def test_a_merge_key_is_refused() -> None:
    assert fault("version: 1\nlimiters: {a: {▶<<: {rate: 5/s}}}\n") == (
        "limiters.a.'<<': merge keys are not allowed; write the keys out"
    )


def test_an_anchor_and_a_tag_on_one_node_are_two_problems() -> None:
    assert faults("version: &a !!int 1\n") == [
        "1:10: an anchor (&name) is not allowed; remove it",
        "1:10: a tag (!name) is not allowed; remove it",
    ]


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("version: 1\nhealth:\n▶\tdefault: {}\n", "a tab cannot indent a line; use spaces"),
        ("version: 1\nstore: ▶@x\n", "a value cannot start with this character; put it in quotes"),
        (
            "version: 1\nstore: a▶: b\n",
            "': ' does not belong here; quote a value that holds it, or check the indentation",
        ),
        ("version: 1\nstore: [▶", "the file ends in the middle of a list or mapping"),
        ("version: 1\nstore: [a▶", "a ',' or ']' is missing in a list"),
        ("version: 1\nstore: {a: b▶: c}\n", "a ',' or '}' is missing in a mapping; ': ' inside a value needs quotes"),
        ("version: 1\nstore: 'a\n▶", "a quote is opened and never closed (it begins at 2:8)"),
        ('version: 1\nstore: "\\▶q"\n', "this escape is unknown; in a quoted text a backslash is written \\\\"),
        ("version: 1\nstore\n▶", "a key needs ': ' after it, on its own line (it begins at 2:1)"),
        ('version: 1\nstore: "\\U▶FFFFFFFF"\n', "a number or escape here is out of every range"),
        ("%YAML 1.▶" + "1" * 5_000 + "\n---\nversion: 1\n", "a number or escape here is out of every range"),
        (
            "version: 1\nstore: |9▶999\n",
            "expected chomping or indentation indicators, but found '9' (while scanning a block scalar)",
        ),
        (
            "version: 1\n▶]\n",
            "the indentation does not fit the lines above, or a bracket or quote is missing (it begins at 1:1)",
        ),
    ],
)
def test_errors_of_yaml_itself_are_problems_at_their_place(marked: str, message: str) -> None:
    assert fault(marked) == f"is no YAML: {message}"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("[" * 65_536, 1, MAX_DEPTH + 1),
        ("{" * 65_536, 1, MAX_DEPTH + 1),
        ("[a," * 20_000, 1, 3 * MAX_DEPTH + 1),
        ("- " * 32_768, 1, 2 * MAX_DEPTH + 1),
        ("? " * 32_768, 1, 2 * MAX_DEPTH + 1),
        ("".join(f"{' ' * depth}a:\n" for depth in range(350)), MAX_DEPTH + 1, MAX_DEPTH + 1),
        ("[" * 10_000 + "]" * 10_000, 1, MAX_DEPTH + 1),
    ],
    ids=["lists", "mappings", "lists with items", "dashes", "question marks", "indented keys", "10,000 levels"],
)
def test_reading_stops_at_the_first_level_too_deep(text: str, line: int, column: int) -> None:
    assert faults(text) == [f"{line}:{column}: lists and mappings nest at most 32 levels deep"]


def test_the_deepest_nesting_allowed_is_read() -> None:
    root = compose("[" * MAX_DEPTH + "]" * MAX_DEPTH, report := Report("test"))
    assert root is not None
    assert report.problems == []


def test_an_alias_bomb_is_never_expanded() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    found = faults("version: 1\n" + "\n".join(lines))
    assert sum("an alias" in line for line in found) == 29 * 9
    assert sum("an anchor" in line for line in found) == 30


@pytest.mark.parametrize(("items", "pauses"), [(0, 0), (100, 5), (10_000, 500)])
def test_who_reads_a_long_text_can_let_others_go_first(items: int, pauses: int) -> None:
    calls: list[None] = []
    compose(f"[{'a, ' * items}]", Report("x"), lambda: calls.append(None))
    assert len(calls) == pytest.approx(pauses, abs=1)
