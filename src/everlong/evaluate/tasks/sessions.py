"""sessions: many questions after one reading, a correction, a source that is forgotten, and what answers drew on.

Our own test of what a session promises; nobody else reports it. The codes of archives are hidden in dull filler, one
document and one source each. Groups of questions: "asked", all codes after one reading; "corrected", a code that a
newer document changes; "forgotten", a code whose source the session forgot, judged only where it was known before (a
method that never knew it forgets nothing): 1 if it is not said any more; "kept", all the others asked again after that.
For methods that store blocks, scores hold `citation`, whether a cited passage contains the code (a code that is still
in the window cannot be cited), and for the forgotten one `uncited`, whether no citation leads to what was forgotten.
Others cannot forget: their record of that group has no score. The forgotten document is neither the first nor among
the last: what is a sink or in the window cannot be forgotten (CapabilityError, recorded so), which short lengths or
long windows come to. Questions are plain completion, as in passkey.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlong.errors import ConfigError
from everlong.evaluate import sources
from everlong.evaluate.haystack import FILLERS, Hidden, hay, measured, pieces
from everlong.evaluate.lengths import Lengths, among, at_least_one, lengths
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.evaluate.words import PLACES
from everlong.text.transcript import Citation

MAX_NEW_TOKENS = 8
_OPENING = "These are the files of several archives. Each has a code. Keep all codes in mind.\n"
_FACT = " The code of the {place} archive is {code}. Remember it. {code} is the code of the {place} archive."
_NEWER = " The code of the {place} archive was changed. The code of the {place} archive is now {code}, and no other."
_SPARE_TOKENS = 8
"""Texts that are tokenised apart may have more tokens than the same in one."""
_QUESTION = "\n\nWhat is the code of the {place} archive now? The code of the {place} archive is"


@dataclass(frozen=True)
class PlantedFact:
    """The code of an archive, as it is at last; `before` a correction, where there is one."""

    source: str
    question: str
    code: str
    before: str = ""


@dataclass(frozen=True)
class Sessions(Task):
    """Questions, corrections, forgetting and citations on one stream of several sources."""

    name = "sessions"
    source = "everlong's own"
    licence = "generated"
    metric = "the answer begins with the code; forgotten: does not contain it"
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of all documents and a question"})
    documents: int = field(default=4, metadata={"help": "sources with a code each"})
    samples: int = field(default=1, metadata={"help": "samples for each length"})
    filler: str = field(default="noise", metadata={"help": "noise (five dull sentences) or books (--data)"})

    def __post_init__(self) -> None:
        lengths(self.lengths)
        at_least_one(samples=self.samples)
        if not 3 <= self.documents <= len(PLACES):
            raise ConfigError(
                f"documents={self.documents}: expected 3..{len(PLACES)} (one is corrected, one forgotten)"
            )
        among(FILLERS, filler=self.filler)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One for each length and number."""
        for length in self.lengths:
            for n in range(self.samples):
                yield self._sample(setting, length, n)

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """Outcomes of all questions: at first, after the correction, and after forgetting."""
        *documents, newer = sample.facts["parts"]
        facts, (corrected, forgotten) = sample.facts["facts"], sample.facts["changed"]
        sources.feed(stream, sample.context, documents)
        known = {}
        for n, fact in enumerate(facts):
            outcome = _asked(stream, fact, fact.before or fact.code, "asked", n)
            known[n] = outcome.score == 1
            yield outcome
        sources.feed(stream, sample.context, [newer])
        yield _asked(stream, facts[corrected], facts[corrected].code, "corrected", corrected)
        yield _forgotten(stream, facts[forgotten], known[forgotten], forgotten)
        if sources.cites(stream):
            for n, fact in enumerate(facts):
                if n != forgotten:
                    yield _asked(stream, fact, fact.code, "kept", n)

    def score(self, prediction: str, sample: Sample) -> float:
        """Whether an answer to the first question begins with its code."""
        return begins(prediction, sample.gold[0])

    def _sample(self, setting: Setting, length: int, n: int) -> Sample:
        rng = setting.rng(self.name, length, n)
        places = rng.sample(PLACES, self.documents)
        codes = [str(code) for code in rng.sample(range(10_000, 100_000), self.documents + 1)]
        forgotten = rng.randrange(1, max(2, self.documents // 2))
        corrected = rng.choice([at for at in range(self.documents) if at != forgotten])
        facts = [PlantedFact(f"{p} archive", _QUESTION.format(place=p), c) for p, c in zip(places, codes, strict=False)]
        old = facts[corrected]
        facts[corrected] = PlantedFact(old.source, old.question, codes[-1], old.code)
        hidden = [_FACT.format(place=p, code=c) for p, c in zip(places, codes, strict=False)]
        hidden.append(_NEWER.format(place=places[corrected], code=codes[-1]))
        names = [*(fact.source for fact in facts), f"{old.source}, newer file"]
        depths = [rng.uniform(0.1, 0.9) for _ in names]
        texts = self._texts(setting, length, n, names, list(map(Hidden, hidden, depths)), facts)
        context, parts = sources.joined(texts)
        found = {"parts": parts, "facts": facts, "changed": (corrected, forgotten)}
        gold = (facts[0].before or facts[0].code,)
        return Sample(f"{length}-{n}", context, facts[0].question, gold, MAX_NEW_TOKENS, length=length, facts=found)

    def _texts(
        self,
        setting: Setting,
        length: int,
        n: int,
        names: Sequence[str],
        hidden: Sequence[Hidden],
        facts: list[PlantedFact],
    ) -> list[tuple[str, str]]:
        """(source, text) of the opening, of each document, and of the newer one."""
        source = pieces(self.filler, setting.data, n)
        size = measured(setting.count)
        room = length - max(setting.count(fact.question) for fact in facts) - setting.count(_OPENING)
        texts = [("opening", _OPENING)]
        for at, (name, fact) in enumerate(zip(names, hidden, strict=True)):
            heading = f"\n\nA file of the {name}.\n"
            share = room // (len(names) - at)
            if setting.count(heading + fact.text) + _SPARE_TOKENS > share:
                raise ConfigError(f"lengths={length}: too few tokens for {self.documents} documents; give more")
            texts.append((name, hay(source, share, size, [fact], heading)))
            room -= setting.count(texts[-1][1])
        return texts


def begins(prediction: str, code: str) -> float:
    """1 if the first thing that was said is the code."""
    return float(prediction.strip().startswith(code))


def _asked(stream: Stream, fact: PlantedFact, code: str, group: str, n: int) -> Outcome:
    """What comes of asking for a code."""
    answer, cited = sources.ask(stream, fact.question, MAX_NEW_TOKENS)
    scores = {} if cited is None else {"citation": float(any(code in c.text for c in cited))}
    shown = {"place": fact.source, "citations": _shown(cited)}
    return Outcome(answer, begins(answer, code), [code], scores, shown, f"{group} {n}", group)


def _forgotten(stream: Stream, fact: PlantedFact, known: bool, n: int) -> Outcome:
    """What comes of asking for a code whose source was forgotten: no score where it was not known before."""
    part = f"forgotten {n}"
    session = stream.session
    if session is None or not sources.cites(stream):
        note = {"place": fact.source, "note": "this method stores nothing that could be forgotten"}
        return Outcome(None, None, None, facts=note, part=part, group="forgotten")
    with stream.clock.running():
        went = session.forget(fact.source)
    answer, cited = sources.ask(stream, fact.question, MAX_NEW_TOKENS)
    found = cited or []
    scores = {"uncited": float(all(c.source != fact.source and fact.code not in c.text for c in found))}
    shown = {"place": fact.source, "forgotten_code": fact.code, "forgotten_tokens": went.tokens, "known_before": known}
    score = float(fact.code not in answer) if known else None
    return Outcome(answer, score, None, scores, shown | {"citations": _shown(cited)}, part, "forgotten")


def _shown(cited: list[Citation] | None) -> list[dict[str, Any]]:
    """Where citations lead, as records hold it."""
    return [{"source": c.source, "start": c.start, "end": c.end, "mass": c.mass} for c in cited or ()]
