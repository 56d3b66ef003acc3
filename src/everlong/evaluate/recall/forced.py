"""How likely the right answer is where its tokens are put into the model's mouth one by one (teacher forcing)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from everlong.evaluate.recall.cell import Question
from everlong.evaluate.recall.posed import AskedModel
from everlong.text.tokenize import ids_behind


@dataclass
class Forced:
    """The gold tokens so far."""

    logprobs: list[float] = field(default_factory=list)
    """Natural logarithms, one for each token."""
    likeliest: list[int] = field(default_factory=list)
    """What the model would have said in the place of each."""
    gold: list[int] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether the model would have said each of them itself."""
        return self.likeliest == self.gold

    @property
    def logp(self) -> float:
        """The mean for each token."""
        return sum(self.logprobs) / len(self.logprobs)

    def add(self, rows: Tensor, ids: list[int]) -> None:
        """Take in the logits before each of `ids`."""
        found = rows.float().log_softmax(-1)
        self.logprobs += [float(row[token]) for row, token in zip(found, ids, strict=True)]
        self.likeliest += rows.argmax(-1).tolist()
        self.gold += ids


def forced(asked: AskedModel, question: Question) -> Forced:
    """The gold answer's tokens on the question that was asked.

    Of several answers that which is likeliest to begin comes next; what joins them is read and not judged.
    """
    found = Forced()
    tokenizer = asked.tokenizer
    left = [ids_behind(tokenizer, question.text, gold) for gold in question.gold]
    joint = ids_behind(tokenizer, question.text + question.gold[0], question.joint) if question.joint else []
    while left:
        if found.gold and joint:
            asked.predictions(joint)
        ids = left.pop(_likeliest(asked, left))
        found.add(asked.predictions(ids), ids)
    return found


def _likeliest(asked: AskedModel, answers: list[list[int]]) -> int:
    """Which of the answers has the likeliest first token."""
    if len(answers) == 1:
        return 0
    row = asked.upcoming()
    return max(range(len(answers)), key=lambda n: float(row[answers[n][0]]))
