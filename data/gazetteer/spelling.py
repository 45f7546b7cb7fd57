"""How the name of a place may be written and still be the same name.

Letters must agree; case, accents, apostrophes and punctuation need not (`normalise`), nor small words and the many
ways to write a saint (`loosen`). Nothing here measures similarity.
"""

from __future__ import annotations

import re
import unicodedata

_SAINTS = frozenset({"s", "ss", "san", "sant", "santa", "santi", "sante", "santo", "st", "sta", "sto"})
_PARTICLES = re.compile(r"a|ad|d[aei]|d|e|ed|con|i|il|in|gli|l[aeo]|l|(?:a|da|de|ne|su)(?:l|i|gli|ll|lla|lle|llo)")


def normalise(text: str) -> str:
    """Lower case, no accents, single spaces for whatever is neither letter nor digit: `S. Donà` -> `s dona`."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def loosen(key: str) -> str:
    """A key without small words (except the first) and with all saints alike: `san dona di piave` -> `s dona piave`."""
    if " " not in key:
        return key
    words = ["s" if word in _SAINTS else word for word in key.split()]
    return " ".join(word for i, word in enumerate(words) if i == 0 or not _PARTICLES.fullmatch(word))
