"""twohop: where a thing is follows from two sentences, only one of which has the words of the question.

"The blue box is in the pantry of the mill." and "The seal of Osric lies in the blue box."
"""

from __future__ import annotations

from everlong.evaluate.recall.cell import Question, RecallCell, RecallText, shuffled

_COLOURS = "blue green crimson amber violet grey white yellow scarlet turquoise brown golden silver black pink orange"
_OWNERS = """
    Osric Wulfric Leofric Godwin Aldhelm Sigbert Thurstan Cenric Hereward Ordgar Brihtnoth Eadwulf Swithin Ethelred
    Uhtred Dunstan
"""
_ROOMS = "pantry cellar attic scullery library nursery larder washroom"
_BUILDINGS = "mill brewery rectory tavern smithy granary boathouse customs-house"
COLOURS = tuple(_COLOURS.split())
OWNERS = tuple(_OWNERS.split())
PLACES = tuple(f"{room} of the {building}" for room in _ROOMS.split() for building in _BUILDINGS.split())
THINGS = ("seal", "ring", "diary", "compass", "whistle")
BOXES = ("box", "chest", "trunk", "basket")


def twohop(cell: RecallCell) -> RecallText:
    """Two facts for each question, in any order."""
    rng = cell.rng
    thing = rng.choice(THINGS)
    box = rng.choice(BOXES)
    colours = rng.sample(COLOURS, cell.questions)
    owners = rng.sample(OWNERS, cell.questions)
    places = rng.sample(PLACES, cell.questions)
    questions = []
    for colour, owner, place in zip(colours, owners, places, strict=True):
        asked = f"\n\nIn which room is the {thing} of {owner}? The {thing} of {owner} is in the"
        facts = (
            f"The {thing} of {owner} lies in the {colour} {box}.",
            f"The {colour} {box} is in the {place}.",
        )
        questions.append(Question(asked, (f" {place}",), facts))
    sentences = shuffled(rng, [fact for question in questions for fact in question.facts])
    return cell.hidden(sentences, questions)
