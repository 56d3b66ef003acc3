"""nolima: questions that share no content word with the fact that answers them.

The form of NoLiMa (Modarressi et al., arXiv 2502.05167): question and fact must be joined by what words mean. The pairs
and the names are ours; a test holds the pairs to having no content word in common. The answer is a name, so that it can
be told from whatever else would be a good answer.
"""

from __future__ import annotations

from everlong.evaluate.recall.cell import Question, RecallCell, RecallText, shuffled

PAIRS = (
    ("{} steers a lorry for a living.", "works as a truck driver"),
    ("{} has not eaten meat since childhood.", "is a vegetarian"),
    ("{} lives right beside the Eiffel Tower.", "has a home in Paris"),
    ("{} cannot hear anything at all.", "is deaf"),
    ("{} bakes bread before dawn and sells the loaves in a shop.", "runs a bakery"),
    ("{} repairs teeth all day long.", "is a dentist"),
    ("{} keeps forty hives and harvests honey.", "is a beekeeper"),
    ("{} was the first of the family to walk on the moon.", "is an astronaut"),
    ("{} puts out fires when the alarm rings.", "is employed by the brigade that fights blazes"),
    ("{} buried a husband last spring and never remarried.", "is a widow"),
    ("{} speaks only Portuguese and grew up in Rio.", "comes from Brazil"),
    ("{} teaches arithmetic to pupils of nine.", "instructs children in mathematics"),
    ("{} swells up after a single peanut.", "suffers from an allergy to nuts"),
    ("{} stitches gowns and suits to measure.", "earns money as a tailor"),
    ("{} won the marathon at the Olympics.", "was the fastest long-distance runner"),
    ("{} flies jets across the Atlantic for an airline.", "is a pilot"),
    ("{} mends burst pipes and leaking taps.", "is a plumber"),
    ("{} gave birth to two babies within ten minutes.", "is the mother of twins"),
    ("{} looks after sick horses and cows.", "is a veterinarian"),
    ("{} owes the bank more than can ever be paid back.", "is deep in debt"),
    ("{} gets sick as soon as the boat leaves the harbour.", "cannot bear sailing"),
    ("{} stands in court and defends people who are accused.", "is a lawyer"),
    ("{} wrote eleven symphonies.", "is a composer of music"),
    ("{} turned one hundred in May.", "is the oldest person, a centenarian"),
)
"""What the text says of somebody, and the same in other words."""
_NAMES = """
    Yuki Kofi Priya Mateo Zainab Tyrone Ingrid Rashid Megan Calvin Veronica Stuart Mandy Kyle Keiko Amara Dmitro
    Lucinda Oksana Tariq Wanda Jorge Anneke Bjorn
"""
NAMES = tuple(_NAMES.split())


def nolima(cell: RecallCell) -> RecallText:
    """One fact for each question."""
    names = cell.rng.sample(NAMES, cell.questions)
    questions = []
    for name, (says, asks) in zip(names, cell.rng.sample(PAIRS, cell.questions), strict=True):
        asked = f"\n\nWhich character {asks}? The name of the character who {asks} is"
        questions.append(Question(asked, (f" {name}",), (says.format(name),)))
    sentences = shuffled(cell.rng, [fact for question in questions for fact in question.facts])
    return cell.hidden(sentences, questions)
