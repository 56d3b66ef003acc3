"""list: all things of a person are asked for, which stand in sentences of their own, far from each other."""

from __future__ import annotations

from everlong.evaluate.recall.cell import Question, RecallCell, RecallText, shuffled
from everlong.evaluate.recall.hops import OWNERS
from everlong.evaluate.words import NOUNS

ITEMS = 3
"""Things of each person."""
FORMS = (("owns", "own"), ("collected", "collect"), ("ordered", "order"))


def listed(cell: RecallCell) -> RecallText:
    """As many persons as questions, with ITEMS things each; right are all of them, in any order."""
    rng = cell.rng
    says, asks = rng.choice(FORMS)
    owners = rng.sample(OWNERS, cell.questions)
    things = rng.sample([noun for noun in NOUNS if noun[0] not in "aeiou"], ITEMS * cell.questions)
    auxiliary = "does" if says.endswith("s") else "did"
    questions = []
    for n, owner in enumerate(owners):
        own = things[ITEMS * n : ITEMS * (n + 1)]
        asked = f"\n\nWhich {ITEMS} things {auxiliary} {owner} {asks}? {owner} {says} a"
        facts = tuple(f"{owner} {says} a {thing}." for thing in own)
        questions.append(Question(asked, tuple(f" {thing}" for thing in own), facts, ", a"))
    sentences = shuffled(rng, [fact for question in questions for fact in question.facts])
    return cell.hidden(sentences, questions)
