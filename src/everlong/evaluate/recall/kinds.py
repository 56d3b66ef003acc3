"""The kinds of fact by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from everlong.evaluate.recall.cell import RecallCell, RecallText
from everlong.evaluate.recall.codes import codes
from everlong.evaluate.recall.hops import twohop
from everlong.evaluate.recall.listed import listed
from everlong.evaluate.recall.meaning import nolima
from everlong.evaluate.recall.named import absent, changed, named
from everlong.evaluate.recall.needles import lines, multikey, pairs

KINDS: Mapping[str, Callable[[RecallCell], RecallText]] = MappingProxyType(
    {
        "named": named,
        "multikey": multikey,
        "codes": codes,
        "pairs": pairs,
        "lines": lines,
        "nolima": nolima,
        "twohop": twohop,
        "list": listed,
        "changed": changed,
        "absent": absent,
    }
)
IN_BOOKS = ("named", "nolima", "twohop", "list", "changed", "absent")
"""Those that are hidden in the task's filler."""
MOST_QUESTIONS = 16
"""Of one text: there are so many owners and colours."""
