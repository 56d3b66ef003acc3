"""named, changed, absent: values of things with names, hidden in filler, all of one form in one text.

In `changed` each value is replaced by a later sentence, and the newer one is right. In `absent` the names that are
asked for are of the same form and not in the text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from everlong.evaluate.recall.cell import Question, RecallCell, RecallText, shuffled
from everlong.evaluate.words import ADJECTIVES, NOUNS

FORMS = (
    "password of the {} Gate",
    "code word of the {} Lodge",
    "licence of the {} Ferry",
    "combination of the {} Vault",
    "call sign of the {} Lighthouse",
    "seal mark of the {} Archive",
)


def named(cell: RecallCell) -> RecallText:
    """As many facts as questions."""
    form, names, values = _drawn(cell, 1)
    pairs = [(form.format(name), next(values)) for name in names]
    questions = [
        Question(f"\n\nWhat is the {what}? The {what} is", (f" {value}",), (_fact(what, value),))
        for what, value in pairs
    ]
    sentences = [_fact(what, value) for what, value in pairs]
    return cell.hidden(sentences, shuffled(cell.rng, questions))


def changed(cell: RecallCell) -> RecallText:
    """Two sentences for each question, the newer one somewhere behind the older one."""
    form, names, values = _drawn(cell, 1)
    sentences: list[str] = []
    questions: list[Question] = []
    met: set[str] = set()
    for name in shuffled(cell.rng, [*names, *names]):
        what = form.format(name)
        value = next(values)
        if name not in met:
            sentences.append(_fact(what, value))
        else:
            sentences.append(f"The {what} was changed to {value}.")
            asked = f"\n\nWhat is the {what} now? The {what} is now"
            questions.append(Question(asked, (f" {value}",), (sentences[-1],)))
        met.add(name)
    return cell.hidden(sentences, shuffled(cell.rng, questions))


def absent(cell: RecallCell) -> RecallText:
    """As many facts as questions, and questions for other names."""
    form, names, values = _drawn(cell, 2)
    sentences = [_fact(form.format(name), next(values)) for name in names[: cell.questions]]
    others = [form.format(name) for name in names[cell.questions :]]
    questions = [Question(f"\n\nWhat is the {what}? The {what} is", ()) for what in others]
    return cell.hidden(sentences, questions)


def _drawn(cell: RecallCell, names_per_question: int) -> tuple[str, list[str], Iterator[str]]:
    """A form, names, and values without end."""
    names = cell.rng.sample(ADJECTIVES, names_per_question * cell.questions)
    return cell.rng.choice(FORMS), [name.title() for name in names], _values(cell.rng)


def _values(rng: random.Random) -> Iterator[str]:
    """`noun-1234`, each noun once."""
    for noun in shuffled(rng, NOUNS):
        yield f"{noun}-{rng.randrange(1000, 10000)}"


def _fact(what: str, value: str) -> str:
    return f"The {what} is {value}."
