"""The closed vocabulary of the generated world: names, relations, attributes and their values.

It is fixed, because the word-level tokenizer of the embedded policy is made from it. Changing a list requires
embedded policies made anew.
"""

from __future__ import annotations

from functools import cache

RELATIONS = ("mother", "friend", "teacher", "rival")
"""From entity to entity. A question uses each at most once, so the last query shows how far a search is."""
ALL_RELATIONS = (*RELATIONS, "neighbor", "cousin", "partner", "student")
"""A world with n relations has the first n of these."""

_VALUES = {
    "color": """
        red blue green yellow purple pink brown black white gray teal navy maroon cyan magenta violet indigo
        crimson scarlet amber beige ivory khaki lavender lilac mauve ochre ruby rust sapphire sienna silver
        gold tan turquoise umber vermilion copper bronze coral jade emerald azure cobalt fuchsia burgundy
        cream ebony
    """,
    "food": """
        apple bread butter cheese cherry chili cookie corn curry dumpling egg fig garlic ginger grape honey
        jam lemon lentil mango melon mushroom noodle nut oat olive onion orange pancake pasta peach peanut
        pear pepper pie pizza plum potato pumpkin radish rice salad sausage soup spinach toast tomato waffle
    """,
    "animal": """
        ant badger bat bear beaver bee camel cat cobra cow crab crane deer dog dolphin donkey duck eagle
        falcon fox frog goat goose hare hawk horse jaguar koala lion lizard mole monkey moose mouse otter owl
        panda parrot pig rabbit raven seal shark sheep snake spider swan tiger
    """,
    "trade": """
        actor artist author baker banker barber brewer builder butcher carpenter chef clerk coach cook dancer
        dentist diver doctor driver editor farmer fisher gardener guard guide hunter judge lawyer mason mayor
        miller miner nurse painter pilot plumber poet porter potter sailor scribe singer smith soldier tailor
        tutor waiter weaver
    """,
}
VALUES: dict[str, tuple[str, ...]] = {attribute: tuple(words.split()) for attribute, words in _VALUES.items()}
"""Attribute to its values, 48 each, so a guess is right once in 48 (belief 0.02)."""

ATTRIBUTES = tuple(VALUES)
OTHER_WORDS = ("of", "?", ".", '"', "unknown")


@cache
def names() -> tuple[str, ...]:
    """About 5,500 pronounceable names, consonant-vowel-consonant-vowel, none of them a word above."""
    consonants, vowels = "bdfgjklmnprstvz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    taken = {word for values in VALUES.values() for word in values} | {*RELATIONS, *ATTRIBUTES, *OTHER_WORDS}
    found: list[str] = []
    for k in range(len(syllables) ** 2):
        # 1009 and 75 * 75 have no common divisor, so the walk visits every pair once; neighbours in the list
        # differ.
        first, second = divmod(k * 1009 % len(syllables) ** 2, len(syllables))
        name = syllables[first] + syllables[second]
        if first != second and name not in taken:
            found.append(name)
    return tuple(found)


NAMES = names()[:100]
"""The entities of a world are drawn from these, if there are at most as many."""


def vocabulary() -> list[str]:
    """Returns every word that a world, its questions and its answers can contain, in a fixed order."""
    values = [word for attribute in ATTRIBUTES for word in VALUES[attribute]]
    return [*OTHER_WORDS, *RELATIONS, *ATTRIBUTES, *values, *NAMES]
