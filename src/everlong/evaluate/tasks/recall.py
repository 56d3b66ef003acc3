"""recall: whether the right passage comes back for each of many questions about one text.

Our own test of what a memory is for. Each text is read once and asked about eight facts, each time on a copy. Kinds:
named (a value in a book), multikey, pairs and lines (nothing but records of one form), codes (in dull filler), nolima
(no content word in common), twohop (two sentences), list (all things of somebody), changed (the newer of two values),
absent (a name that the text does not have). Facts are spread from the first tokens that may have to come back to `tail`
tokens before the end. Questions are plain completion, as in passkey, and nothing is generated: an answer is right if
each of its tokens is the model's first choice behind those before it (in `list` the things may come in any order).

scores of a question: `likelihood`, the geometric mean probability of the answer's tokens (facts: `logp`, its natural
logarithm). For methods that store blocks, and facts that must come back (facts: `stored`; not in sinks or window):
`hit`, all of all facts is in what came back, and `found`, the share of facts that are; `rank1` and `rank3`, the best
placed fact's passage is first, or among three, by the vote (by the answer's attention where no vote is held);
`citation1` and `citation3`, of questions answered right, the fact's passage is cited first, or among three;
`stands_out`, the recall says that it found something. In absent the score is whether it says that nothing stands out. A
last record of each text has `shared`, how much of what came back is the same for two of its questions, the mean over
pairs (blocks), and `shared_citations` (the characters of the first three passages).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from everlong.errors import ConfigError
from everlong.evaluate import sources
from everlong.evaluate.haystack import FILLERS, books, measured, noise
from everlong.evaluate.lengths import Lengths, Names, Ways, among, at_least_one, lengths, ways
from everlong.evaluate.recall.cell import Question, RecallCell
from everlong.evaluate.recall.judge import judged, overlap
from everlong.evaluate.recall.kinds import IN_BOOKS, KINDS, MOST_QUESTIONS
from everlong.evaluate.recall.posed import Way, posed
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.models.encoder import SentenceEncoder

_BOOKS = 1000
_SENTENCES = 1000
"""A text begins at one of so many sentences of one of so many books (counted round and round)."""
_SPARE_TOKENS = 16
"""For what else is read with a question: the joints of a list."""


@dataclass(frozen=True)
class RecallTask(Task):
    """Eight questions on each text, of ten kinds; right if every token of the answer is the model's first choice."""

    name = "recall"
    source = "everlong's own, with the forms of RULER, Lost in the Middle, LongEval and NoLiMa"
    licence = "generated; the books are what --data gives"
    metric = "every token of the answer is the likeliest; absent: says that nothing stands out"
    kinds: Names = field(default=tuple(KINDS), metadata={"help": f"kinds of fact: {', '.join(KINDS)}"})
    lengths: Lengths = field(default=(8192,), metadata={"help": "tokens of a text, a question and its answer"})
    texts: int = field(default=1, metadata={"help": "texts for each kind and length"})
    questions: int = field(default=8, metadata={"help": f"questions on each text, at most {MOST_QUESTIONS}"})
    again: Ways = field(default=(2,), metadata={"help": "passages read again, or auto; several: asked in each way"})
    tail: int = field(default=1280, metadata={"help": "tokens at the end without a fact, so that facts are not recent"})
    encoder: str = field(default="", metadata={"help": "a sentence encoder that votes too (none if empty)"})
    filler: str = field(default="books", metadata={"help": f"of {', '.join(IN_BOOKS)}: books (--data) or noise"})

    def __post_init__(self) -> None:
        among(tuple(KINDS), kinds=self.kinds)
        lengths(self.lengths)
        ways(again=self.again)
        at_least_one(texts=self.texts)
        if not 1 <= self.questions <= MOST_QUESTIONS:
            raise ConfigError(f"questions={self.questions}: expected 1..{MOST_QUESTIONS}")
        if self.tail < 0:
            raise ConfigError(f"tail={self.tail}: must be at least 0 (tokens at the end without a fact)")
        among(FILLERS, filler=self.filler)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One for each kind, length and text."""
        size = measured(setting.count)
        for kind, length, n in itertools.product(self.kinds, self.lengths, range(self.texts)):
            rng = setting.rng(self.name, kind, length, n)
            filler = noise() if self.filler == "noise" or kind not in IN_BOOKS else self._book(setting, rng)
            tokens = length - _SPARE_TOKENS
            made = KINDS[kind](RecallCell(rng, tokens, self.tail, setting.count, size, filler, self.questions))
            first = made.questions[0]
            facts = {"questions": made.questions}
            yield Sample(
                f"{kind}-{length}-{n}", made.context, first.text, first.gold, group=kind, length=length, facts=facts
            )

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """An outcome for each question in each way, and one of what their recalls share."""
        stream.feed(sample.context)
        if not sources.cites(stream):
            yield from self._asked(stream, sample, 0, "")
            return
        self._encode(stream)
        for way in self.again:
            name = "" if len(self.again) == 1 else f", again={way}"
            found = list[Outcome]()
            for outcome in self._asked(stream, sample, way, name):
                found.append(outcome)
                yield outcome
            yield _shared(found, sample.group + name, f"shared{name}")

    def _encode(self, stream: Stream) -> None:
        """Let the encoder read the text, if there is one."""
        if self.encoder and stream.session is not None:
            with stream.clock.running():
                for _ in stream.session.use_encoder(_encoder(self.encoder)):
                    pass

    def score(self, prediction: str, sample: Sample) -> float:
        """Whether an answer to the first question begins with what is right."""
        said = prediction.strip()
        return float(bool(sample.gold) and said.startswith(sample.gold[0].strip()))

    def _asked(self, stream: Stream, sample: Sample, way: Way, name: str) -> Iterator[Outcome]:
        method = stream.session.method if stream.session is not None and sources.cites(stream) else None
        questions: tuple[Question, ...] = sample.facts["questions"]
        for n, question in enumerate(questions):
            with stream.clock.running(), posed(stream, question.text, way) as asked:
                found = judged(asked, question, sample.context, method)
            stream.clock.prompt_tokens = stream.seen_tokens
            facts = dict(found.facts) | ({"again": way} if method is not None else {})
            yield Outcome(
                found.prediction, found.score, found.gold, found.scores, facts, f"{n}{name}", sample.group + name
            )

    def _book(self, setting: Setting, rng: Random) -> Iterator[str]:
        """A book's sentences, from some sentence on."""
        start = rng.randrange(_BOOKS)
        return itertools.islice(books(setting.data, start), rng.randrange(_SENTENCES), None)


@functools.cache
def _encoder(name: str) -> SentenceEncoder:
    """An encoder, loaded once."""
    return SentenceEncoder.load(name)


def _shared(found: list[Outcome], group: str, part: str) -> Outcome:
    """What the recalls of a text have in common."""
    recalled = [outcome.facts["recalled"] for outcome in found if "recalled" in outcome.facts]
    cited = [outcome.facts["citations"][:3] for outcome in found if "citations" in outcome.facts]
    first = [{n for start, end in places for n in range(start, end)} for places in cited]
    shares = {"shared": overlap(recalled), "shared_citations": overlap(first)}
    scores = {name: share for name, share in shares.items() if share is not None}
    return Outcome(None, None, scores=scores, part=part, group=group)
