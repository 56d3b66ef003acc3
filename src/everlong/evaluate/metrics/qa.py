"""F1 of answers to questions, as LongBench (`metrics.py`) and InfiniteBench (`compute_scores.py`) count it.

The English one is SQuAD's. For Chinese, LongBench counts the words that jieba finds, InfiniteBench characters; both
leave out punctuation, in which U+300A, U+3008, U+3009 and U+FF0E are officially not included.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

from everlong.evaluate.metrics.packages import chinese_words
from everlong.evaluate.metrics.squad import normalised, overlap

_RANGES = (
    *((0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027)),
    *((0x3001, 0x3003), (0x300B, 0x3011), (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F)),
    *((0xFF01, 0xFF0D), (0xFF0F, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64)),
)


def _marks() -> Iterator[str]:
    """Punctuation, ASCII and Chinese."""
    yield from string.punctuation
    for first, last in _RANGES:
        yield from map(chr, range(first, last + 1))


_WITHOUT_MARKS = str.maketrans(dict.fromkeys(_marks()))


def f1(prediction: str, gold: str) -> float:
    """F1 of the English words, without case, punctuation and articles.

    LongBench `qa_f1_score`, InfiniteBench `qa_f1_score`. Below: precision 1/2, recall 1.

    >>> round(f1("The cat sat.", "a cat"), 4)
    0.6667
    """
    return overlap(normalised(prediction).split(), normalised(gold).split())


def f1_zh(prediction: str, gold: str) -> float:
    """F1 of the Chinese words that jieba finds, without punctuation.

    LongBench `qa_f1_zh_score`. Below: two words of three against two.

    >>> f1_zh("我在北京。", "在北京")
    0.8
    """
    return overlap(_words(prediction), _words(gold))


def f1_characters(prediction: str, gold: str) -> float:
    """F1 of the characters, without punctuation and spaces.

    InfiniteBench `qa_f1_score_zh`. Below: three characters of four against three.

    >>> round(f1_characters("我 在北京。", "在北京"), 4)
    0.8571
    """
    return overlap(_bare(prediction), _bare(gold))


def _words(text: str) -> list[str]:
    return [bare for word in chinese_words(text) if (bare := _bare(word))]


def _bare(text: str) -> str:
    """The text in lower case without punctuation and spaces."""
    return "".join(text.lower().translate(_WITHOUT_MARKS).split())
