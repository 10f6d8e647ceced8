"""Says in plain words what PyYAML found wrong with a text, and where."""

from __future__ import annotations

from typing import Final

import yaml

from resilience.config.values import shown

_LONGEST: Final = 160
_EXPLAINED: Final = (
    ("found character '\\t'", "a tab cannot indent a line; use spaces"),
    ("that cannot start any token", "a value cannot start with this character; put it in quotes"),
    (
        "mapping values are not allowed here",
        "': ' does not belong here; quote a value that holds it, or check the indentation",
    ),
    ("could not find expected ':'", "a key needs ': ' after it, on its own line"),
    ("found unexpected end of stream", "a quote is opened and never closed"),
    ("expected the node content, but found '<stream end>'", "the file ends in the middle of a list or mapping"),
    ("but found '<block sequence start>'", "the indentation does not fit the lines above"),
    ("expected <block end>", "the indentation does not fit the lines above, or a bracket or quote is missing"),
    ("expected ',' or ']'", "a ',' or ']' is missing in a list"),
    ("expected ',' or '}'", "a ',' or '}' is missing in a mapping; ': ' inside a value needs quotes"),
    (
        "expected '<document start>'",
        "this stands after the end of the document; check the indentation and the brackets",
    ),
    ("found unknown escape character", "this escape is unknown; in a quoted text a backslash is written \\\\"),
)


def explain(error: Exception, reached: yaml.Mark) -> tuple[int, int, str]:
    """Line, column (both from 1) and a message for an error of PyYAML's.

    Args:
        error: what PyYAML raised: mostly a YAMLError with a mark; for an escape beyond Unicode a bare error.
        reached: where the scanner was at that time.
    """
    if not isinstance(error, yaml.MarkedYAMLError):
        return reached.line + 1, reached.column + 1, "is no YAML: a number or escape here is out of every range"
    mark = error.problem_mark or error.context_mark or reached
    return mark.line + 1, mark.column + 1, f"is no YAML: {_message(error)}"


def _message(error: yaml.MarkedYAMLError) -> str:
    said = error.problem or "it cannot be read"
    for words, message in _EXPLAINED:
        if words in said:
            return f"{message}{_opened(error)}"
    clean = "".join(character if character.isprintable() else shown(character)[1:-1] for character in said[:_LONGEST])
    return clean if error.context is None else f"{clean} ({error.context[:_LONGEST]})"


def _opened(error: yaml.MarkedYAMLError) -> str:
    """Where the construct began that is broken, when that is on an earlier line."""
    begun, broken = error.context_mark, error.problem_mark
    if begun is None or broken is None or begun.line == broken.line:
        return ""
    return f" (it begins at {begun.line + 1}:{begun.column + 1})"
