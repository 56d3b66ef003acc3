"""mtbench_stream: the conversations of MT-Bench one after the other in one endless chat that keeps all answers.

StreamingLLM's demonstration (arXiv 2309.17453, section 4.3 and figure of its repository) over MT-Bench's 80 two-turn
questions (Zheng et al., arXiv 2306.05685; question.jsonl). Who judges answers without a judge? Their own model would
praise its repetitions, so what is scored is the text that is the same for every method: how well the stream, with all
that it read and wrote, predicts the user's next message (geometric mean of the probabilities of its tokens; perplexity
is 1 / score). A stream that has fallen apart shows at once. Beside it, per answer: `distinct`, the share of
different groups of four words (1 minus seq-rep-4 of Welleck et al., arXiv 1908.04319), and `ended`, whether it came to
an end by itself. None of them says whether an answer is good. The chat form is the tokenizer's own template, else
that of Vicuna, which StreamingLLM used. Messages are scored as they are read; no word of a template counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from everlong.errors import InputError
from everlong.evaluate.data import rows
from everlong.evaluate.lengths import at_least_one
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.text.tokenize import special_ids

_SAID = "Everlong asks."
_ANSWERED = "Everlong answers."
_SAID_NEXT = "Who knows it?"
"""Stand-ins for messages."""


@dataclass(frozen=True)
class TalkForm:
    """What stands in front of the first message, in front of each later one, and between message and answer."""

    opening: str
    between: str
    answer: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class TalkTurn:
    """A message of a user."""

    part: str
    category: str
    message: str


@dataclass(frozen=True)
class MtbenchStream(Task):
    """MT-Bench as one endless chat: whether messages are still predicted, and answers still end and do not repeat."""

    name = "mtbench_stream"
    source = "StreamingLLM, arXiv 2309.17453; MT-Bench, arXiv 2306.05685"
    licence = "Apache-2.0"
    metric = "geometric mean of the probabilities of the user's tokens (1 / perplexity)"
    needs = "data"
    conversations: int = field(default=80, metadata={"help": "the first so many, two turns each, in one chat"})
    max_new_tokens: int = field(default=128, metadata={"help": "tokens of an answer"})

    def __post_init__(self) -> None:
        at_least_one(conversations=self.conversations)
        at_least_one(max_new_tokens=self.max_new_tokens)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One: the chat. (So --limit has nothing to limit; `conversations` does.)"""
        found: list[TalkTurn] = []
        for file in setting.data.files("mt_bench", "question*.jsonl"):
            for row in list(rows(file, "question_id", "category", "turns"))[: self.conversations]:
                messages = row["turns"]
                if not isinstance(messages, list) or not all(isinstance(m, str) and m.strip() for m in messages):
                    raise InputError(
                        f"{file}: question {row['question_id']} has turns that are not texts; mend the file"
                    )
                parts = enumerate(messages, start=1)
                found += [TalkTurn(f"{row['question_id']}.{n}", str(row["category"]), message) for n, message in parts]
            break
        facts = {"turns": found, "form": form(setting.tokenizer)}
        yield Sample("chat", "".join(t.message for t in found), max_new_tokens=self.max_new_tokens, facts=facts)

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """An outcome for each turn."""
        around = sample.facts["form"]
        for n, turn in enumerate(sample.facts["turns"]):
            stream.feed(around.between if n else around.opening, source="form", template=True)
            at = stream.seen_tokens
            logprobs = torch.cat([part.double().cpu() for part in stream.score(turn.message)])
            before = stream.clock.new_tokens
            answer = stream.ask(around.answer, sample.max_new_tokens, around.stop, template=True)
            ended = stream.clock.new_tokens - before < sample.max_new_tokens
            facts = {"category": turn.category, "position": at, "new_tokens": stream.clock.new_tokens - before}
            yield self._outcome(turn, logprobs[~logprobs.isnan()], answer, ended, facts)

    def _outcome(
        self, turn: TalkTurn, logprobs: torch.Tensor, answer: str, ended: bool, facts: dict[str, Any]
    ) -> Outcome:
        nll = -float(logprobs.sum())
        n = len(logprobs)
        scores = {"ended": float(ended)}
        if (share := distinct(answer)) is not None:
            scores["distinct"] = share
        facts |= {"nll_sum": nll, "tokens": n, "perplexity": math.exp(nll / n) if n else None}
        return Outcome(answer, math.exp(-nll / n) if n else None, None, scores, facts, turn.part)


def distinct(text: str, n: int = 4) -> float | None:
    """The share of groups of `n` words that are different; None for a text of fewer words.

    >>> distinct("the tide and the tide and the", n=2)
    0.5
    """
    words = text.split()
    groups = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return len(set(groups)) / len(groups) if groups else None


def form(tokenizer: Any) -> TalkForm:
    """The tokenizer's own form of a chat; Vicuna's where it has none that shows messages as they are."""
    if getattr(tokenizer, "chat_template", None):
        messages = [("user", _SAID), ("assistant", _ANSWERED), ("user", _SAID_NEXT)]
        talk = [{"role": role, "content": content} for role, content in messages]
        first, whole = (
            tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=True) for some in (talk[:1], talk)
        )
        opening, said, answer = first.partition(_SAID)
        between, next_said, _ = whole.partition(_ANSWERED)[2].partition(_SAID_NEXT)
        if said and next_said:
            return TalkForm(opening.removeprefix(tokenizer.decode(special_ids(tokenizer)[0])), between, answer)
    return TalkForm("USER: ", "\n\nUSER: ", "\n\nASSISTANT:", ("\n\nUSER:", "\nUSER:"))
