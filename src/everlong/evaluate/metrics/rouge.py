"""ROUGE-L at the level of summaries (Lin, ACL 2004 workshop, section 3.2), as two packages compute it.

LongBench takes the package `rouge`: sentences end at full stops, each different word counts once, and an epsilon of
1e-8 in F leaves 0.999999995 for two equal texts. Its walk through two long sentences is recursive; the official scorer
gives 0 where it passes Python's limit of 1,000 frames, so that the score depends on where it is called from. Here it is
given the frames that it needs. InfiniteBench takes rougeLsum of the package `rouge-score`, where lines are sentences.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from everlong.evaluate.metrics.packages import chinese_words, package


def rouge_l(prediction: str, gold: str) -> float:
    """F of ROUGE-L by the package `rouge`; 0 where one of the texts has no sentence.

    LongBench `rouge_score`. Below: LCS "tide rose" of three words and of two.

    >>> round(rouge_l("the tide rose", "tide rose"), 4)
    0.8
    """
    scorer = package("rouge").Rouge(metrics=["rouge-l"])
    if not (prediction.strip(".") and gold.strip(".")):
        return 0.0
    with _frames(len(prediction.split()) + len(gold.split())):
        return scorer.get_scores(prediction, gold)[0]["rouge-l"]["f"]


def rouge_l_zh(prediction: str, gold: str) -> float:
    """F of ROUGE-L over the words that jieba finds.

    LongBench `rouge_zh_score`. Below: two words of three and of two.

    >>> round(rouge_l_zh("我在北京", "在北京"), 4)
    0.8
    """
    return rouge_l(" ".join(chinese_words(prediction)), " ".join(chinese_words(gold)))


def rouge_lsum(prediction: str, golds: Sequence[str]) -> float:
    r"""F of rougeLsum by the package `rouge-score`, without stemming, with the reference that suits it best.

    InfiniteBench `get_score_one_longbook_sum_eng`. Below: two words of three and of two, in two lines.

    >>> round(rouge_lsum("the tide\nrose", ["tide\nrose", "gulls"]), 4)
    0.8
    """
    scorer = package("rouge_score.rouge_scorer").RougeScorer(["rougeLsum"], use_stemmer=False)
    return max((float(scorer.score(gold, prediction)["rougeLsum"].fmeasure) for gold in golds), default=0.0)


@contextmanager
def _frames(more: int) -> Iterator[None]:
    """So many frames more than usual may be open inside."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(usual + more)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)
