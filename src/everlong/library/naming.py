"""What a session may be called: what can be typed, shown and told from other names."""

from __future__ import annotations

import unicodedata

from everlong.errors import InputError

BESIDE = "~reread"
"""Behind the name of a session: the one that a reread builds beside it."""
LONGEST = 100
"""Characters of a name at most."""
_REFUSED = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of Unicode: control characters, halves of characters, ends of lines and paragraphs."""


def check_name(name: str) -> None:
    """InputError for what cannot be a session's name: it must be one that can be typed, shown and told from others."""
    bad = not name or "/" in name or name[0] in ".-" or name != name.strip()
    if bad or any(unicodedata.category(c) in _REFUSED for c in name):
        raise InputError(
            f"session {name!r}: a name has at least one character, no slash, no control character, no leading dot or "
            "dash and no space at its ends; give another"
        )
    if len(name.removesuffix(BESIDE)) > LONGEST:
        raise InputError(f"session {name[:20]!r}...: a name has at most {LONGEST} characters, got {len(name):,}")
