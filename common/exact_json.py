"""JSON from others, read as exactly one thing: no key twice, no NaN, and not nested without end."""

from __future__ import annotations

import json
import re

_DEEPEST = 100
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def exact_json(text: str) -> object:
    """What a JSON text says. Raises ValueError for any other text, a key that stands twice and NaN included.

    So does what is nested deeper than anything we write: the parser's own limit is the interpreter's, which libraries
    raise, and above it the process ends.
    """
    if _is_deeper_than(text, _DEEPEST):
        raise ValueError("nested too deeply")
    content: object = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    return content


def exact_object(content: object, keys: set[str]) -> dict[str, object]:
    """The content as an object with these keys and no other. Raises ValueError for anything else."""
    if not isinstance(content, dict) or set(content) != keys:
        raise ValueError("other keys than expected")
    return content


def _is_deeper_than(text: str, most: int) -> bool:
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > most:
                return True
        elif token[0] in "]}":
            depth -= 1
    return False


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice")
    return content


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
