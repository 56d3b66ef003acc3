"""What came of one question: whether the answer is right, and whether what it stands on came back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from everlong.evaluate.recall.cell import Question
from everlong.evaluate.recall.forced import Forced, forced
from everlong.evaluate.recall.places import CharSpan, covered, fact_span, is_stored, passage_span, rank
from everlong.evaluate.recall.posed import AskedModel, Cited
from everlong.evaluate.task import Outcome
from everlong.methods.base import Method
from everlong.text.quoting import by_answer

_FIRST = (1, 3)
"""The fact's passage is wanted first, or among so many."""
_SHOWN = 8
"""Citations that are kept in a record, and that count as what came back where a method does not say it."""


def judged(asked: AskedModel, question: Question, context: str, method: Method | None) -> Outcome:
    """The answer's probability and what was recalled; `method` is the one that stores blocks, or None."""
    if not question.gold:
        return _absent(asked, question)
    found = forced(asked, question)
    said = asked.tokenizer.decode(found.likeliest)
    scores = {"likelihood": math.exp(found.logp)}
    facts = _told(question, context, found)
    cited = asked.cited()
    if method is not None and cited is not None:
        facts |= _recalled(asked, cited)
        places = [fact_span(context, fact) for fact in question.facts]
        facts["stored"] = all(is_stored(asked.tokenizer, method, context, place) for place in places)
        if facts["stored"]:
            more, facts["rank"] = _came_back(asked, cited, places, context)
            scores |= more
            if found.right:
                scores |= _supported(by_answer(_near(asked, cited), question.text, said), places, context)
    if asked.recall is not None:
        scores["stands_out"] = float(asked.recall.stands_out)
    return Outcome(said, float(found.right), list(question.gold), scores, facts)


def overlap(sets: Sequence[Iterable[Any]]) -> float | None:
    """The mean over all pairs of 2 |A and B| / (|A| + |B|); None without a pair of which one has something.

    >>> overlap([{1, 2}, {2, 3}, {4}])
    0.16666666666666666
    """
    pairs = [(set(a), set(b)) for a, b in itertools.combinations(sets, 2)]
    found = [2 * len(a & b) / (len(a) + len(b)) for a, b in pairs if a or b]
    return sum(found) / len(found) if found else None


def _absent(asked: AskedModel, question: Question) -> Outcome:
    """Right is to say that no passage stands out; not judged where a method cannot say it."""
    facts: dict[str, Any] = {"question": question.text}
    recall = asked.recall
    if recall is None:
        return Outcome(None, None, facts=facts)
    said = float(not recall.stands_out)
    return Outcome(None, said, scores={"said_absent": said}, facts=facts | _recalled(asked, recall.passages))


def _recalled(asked: AskedModel, cited: Sequence[Cited]) -> dict[str, Any]:
    """What came back, as records hold it: numbers of blocks, or where passages begin where no vote was held."""
    recall = asked.recall
    places = {"citations": _places(_near(asked, cited))}
    if recall is None:
        return places | {"recalled": sorted(one.start for one in cited[:_SHOWN])}
    return places | {"recalled": list(recall.blocks), "way": recall.way}


def _near(asked: AskedModel, cited: Sequence[Cited]) -> list[Cited]:
    """What a reply would cite: of a vote, the passages that are nearly as good as the best, if one stands out."""
    if asked.recall is None:
        return list(cited)
    return [one for one in asked.recall.passages if one.near and asked.recall.stands_out]


def _places(cited: Sequence[Cited]) -> list[list[int]]:
    """Where the first citations stand, in characters."""
    return [[one.start, one.end] for one in cited[:_SHOWN]]


def _told(question: Question, context: str, found: Forced) -> dict[str, Any]:
    """The question, where its facts stand, and the answer's log-probability."""
    depths = [context.index(fact) / len(context) for fact in question.facts]
    return {
        "question": question.text,
        "depths": [round(depth, 4) for depth in depths],
        "place": ("first", "middle", "last")[min(2, int(3 * depths[0]))],
        "logp": found.logp,
        "tokens": len(found.gold),
    }


def _came_back(
    asked: AskedModel, cited: Sequence[Cited], places: Sequence[CharSpan], context: str
) -> tuple[dict[str, float], int | None]:
    """Scores of what was shown and cited, and the rank of the best placed fact in the vote."""
    shown = asked.recall.shown if asked.recall is not None else cited[:_SHOWN]
    spans = [passage_span(context, one) for one in shown]
    back = [covered(context, place, spans) for place in places]
    best = _best_rank(cited, places, context)
    scores = {"hit": float(all(back)), "found": sum(back) / len(back)}
    scores |= {f"rank{n}": float(best is not None and best <= n) for n in _FIRST}
    return scores, best


def _supported(cited: Sequence[Cited], places: Sequence[CharSpan], context: str) -> dict[str, float]:
    """Whether a fact's passage is among the first citations of an answer."""
    best = _best_rank(cited, places, context)
    return {f"citation{n}": float(best is not None and best <= n) for n in _FIRST}


def _best_rank(cited: Sequence[Cited], places: Sequence[CharSpan], context: str) -> int | None:
    """The place of the best placed fact among the passages."""
    passages = [passage_span(context, one) for one in cited]
    return min((place for place in (rank(fact, passages) for fact in places) if place is not None), default=None)
