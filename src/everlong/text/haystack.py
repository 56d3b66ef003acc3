"""Words that evaluation and training share: those of the pass-key test, and a book without what stands around it."""

from __future__ import annotations

import re

OPENING = "Somewhere in this long and dull text there is one fact that matters. Find it and keep it in mind."
PAPER_OPENING = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you"
    " about the important information there."
)
"""That of Landmark Attention (arXiv 2305.16300) and Infini-attention (arXiv 2404.07143)."""
DULL = (" The grass is green.", " The sky is blue.", " The sun is yellow.", " Here we go.", " There and back again.")
NOISE = "".join(DULL)
KEY = " The pass key is {key}. Remember it. {key} is the pass key."
KEY_QUESTION = " What is the pass key? The pass key is"
KEY_OF = " The pass key of {name} is {key}. Remember it. {key} is the pass key of {name}."
KEY_OF_QUESTION = " What is the pass key of {name}? The pass key of {name} is"
_NAMES = "Anna Boris Clara David Emma Felix Greta Henry Irene James Karen Louis Maria Oscar Paula Simon"
NAMES = tuple(_NAMES.split())
_GUTENBERG = re.compile(r"\*\*\* ?(?:START|END) OF TH[^*]*\*\*\*")


def key_needle(name: str, key: str) -> str:
    """The sentences that hide the key of `name`, or the only key (an empty name)."""
    return KEY_OF.format(name=name, key=key) if name else KEY.format(key=key)


def key_question(name: str) -> str:
    """The question for it, which ends where the key begins."""
    return KEY_OF_QUESTION.format(name=name) if name else KEY_QUESTION


def book(content: str) -> str:
    """The text of a Project Gutenberg file without what stands before and after the book."""
    parts = _GUTENBERG.split(content)
    return max(parts, key=len).strip()
