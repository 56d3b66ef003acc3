"""Names and made-up words for generated tasks: the same from the same random numbers, and never twice in one text."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Iterator

_ADJECTIVES = """
    amber ancient arctic ashen autumn bashful bitter blunt bold brass brave brief bright brisk broad bronze calm
    candid careful cheerful chilly clever cloudy coastal copper cosy crimson crooked curious damp daring dapper dim
    distant dusty eager early earnest eastern faint faithful famous fearless flat foggy fond fragile frank fresh
    frosty gentle giant gilded glad glossy golden graceful grand grey hasty hazel heavy hidden hollow honest humble
    icy idle inner ivory jolly keen kind lame late lazy lean level little lively lofty lonely loud loyal lucky
    marble meek mellow merry mild misty modest mossy muddy narrow neat nimble noble northern odd outer pale
    patient plain playful polite proud quick quiet rainy rapid rare remote restless rough round royal rural rusty
    salty sandy scarlet secret shady sharp shy silent silver simple sleepy slender slow small smooth snowy sober
    solemn southern spare spotted steady steep stern stout strict sturdy subtle sunny sweet swift tall tame tawny
    thirsty tidy timid tiny upper urban velvet violet vivid warm weary western wild windy wise witty wooden young
"""
_NOUNS = """
    acorn anchor anvil apple apron arrow attic badger bagel balcony bamboo banjo barley barn barrel basin basket
    beacon beaver bell bench berry bicycle biscuit blanket blossom boat bonnet book boot bottle boulder branch bread
    brick bridge broom brook bucket bugle butter button cabin cable camel canal candle canoe canyon carpet carrot
    castle cedar cellar chapel cherry chimney cider circus clay cliff clock cloud clover coat cobbler collar comet
    compass coral cork cotton cottage crane crayon creek cricket crown crystal cupboard curtain daisy desert diamond
    dolphin donkey door dragon drum eagle easel elbow elephant elm ember engine falcon farmer feather fence ferry
    fiddle field finch flute forest fountain fox garden garlic gate ginger glacier glove goose granite grape gravel
    guitar hammer hammock harbour harp hawk hazelnut hedge helmet heron hill honey horizon hornet horse hotel island
    ivy jacket jar jasmine jewel jungle kettle kite kitten ladder lagoon lake lamp lantern lark lemon letter library
    lighthouse lilac lily lizard lobster locket lumber magnet maple market meadow melon mill mirror mitten monkey
    moon mountain mouse museum mushroom needle nest nutmeg oak oasis oat ocean olive onion orchard orchid otter oven
    owl oyster paddle palace panther paper parrot pasture path peach peacock pearl pebble pelican pencil penguin
    pepper piano pillow pine pirate planet plum pocket poem pond poplar poppy potato prairie pumpkin quarry quartz
    quill quilt rabbit radish raft rainbow raven reef ribbon river robin rocket rope rose saddle sailor salmon scarf
    seal shell shepherd ship shovel sparrow spider spoon spruce squirrel stable stove sugar swallow swan table tailor
    teapot temple thimble thistle thunder tiger timber toad tower tractor trumpet tulip tunnel turnip turtle umbrella
    valley vase village vine violin volcano waffle wagon walnut walrus water whale wheat whistle willow window winter
    wolf yacht zebra
"""
PLACES = (
    *("Lisbon", "Oslo", "Cairo", "Lima", "Kyoto", "Dublin", "Havana", "Prague", "Nairobi", "Quebec", "Warsaw", "Perth"),
    *("Athens", "Bogota", "Geneva", "Madrid", "Jakarta", "Riga", "Tunis", "Vienna", "Manila", "Boston", "Sofia"),
    "Bergen",
)
ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
_SYLLABLES = tuple(a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou"))


def names(rng: random.Random) -> Iterator[str]:
    """`adjective-noun` for ever; where all pairs were taken they come again with a number behind."""
    order = list(range(len(ADJECTIVES) * len(NOUNS)))
    rng.shuffle(order)
    for lap in itertools.count(1):
        for n in order:
            name = f"{ADJECTIVES[n % len(ADJECTIVES)]}-{NOUNS[n // len(ADJECTIVES)]}"
            yield name if lap == 1 else f"{name}-{lap}"


def made_up(rng: random.Random) -> Iterator[str]:
    """Words of three syllables that mean nothing (343,000 of them), then of four, and so on."""
    for syllables in itertools.count(3):
        taken: set[str] = set()
        while len(taken) < len(_SYLLABLES) ** syllables:
            word = "".join(rng.choices(_SYLLABLES, k=syllables))
            if word not in taken:
                taken.add(word)
                yield word


def identifier(rng: random.Random) -> str:
    """A UUID of version 4 from these random numbers."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
