"""Meanings of words: relations between them, and the kinds of things they name."""

import random

from headstart.tasks.builtin.facts.nouns import CATEGORIES
from headstart.tasks.builtin.facts.relations import HOMOPHONES, OPPOSITES, SYNONYMS
from headstart.tasks.builtin.registry import Cluster, Pair, joined

RELATIONS = Cluster("word_relations")
CATEGORY = Cluster("categories")
CLUSTERS = (RELATIONS, CATEGORY)

EDIBLE = tuple(CATEGORIES["fruit"] + CATEGORIES["vegetable"] + CATEGORIES["food"])
NOT_EDIBLE = tuple(CATEGORIES["tool"] + CATEGORIES["furniture"] + CATEGORIES["vehicle"] + CATEGORIES["clothing"])
KINDS = ("tool", "instrument", "clothing", "vehicle", "profession", "body")
PLAIN_KINDS = ("bird", "insect", "fruit", "vegetable", "tool", "instrument", "vehicle", "profession")

RELATIONS.table(
    "opposite_word", "Complete the contrast with the opposite word.", ((f"not {a} but", b) for a, b in OPPOSITES), dataset="opposites"
)
RELATIONS.table(
    "opposite_or_similar",
    "Do the two words mean the opposite or nearly the same?",
    joined(((f"{a} / {b}", "opposite") for a, b in OPPOSITES), ((f"{a} / {b}", "similar") for a, b in SYNONYMS)),
    labels=("opposite", "similar"),
)
RELATIONS.table("sounds_alike", "Give another word that sounds exactly like this one.", joined(HOMOPHONES, ((b, a) for a, b in HOMOPHONES)))


@RELATIONS.drawn("opposite_analogy", "Finish the analogy with one word.", dataset="opposites")
def _(rng: random.Random) -> Pair:
    (a, b), (c, d) = rng.sample(OPPOSITES, 2)
    return f"{a} : {b} = {c} :", d


@RELATIONS.drawn("kind_analogy", "Which word completes the last part?")
def _(rng: random.Random) -> Pair:
    first, second = rng.sample(PLAIN_KINDS, 2)
    return f"{rng.choice(CATEGORIES[first])} is to {first} as {rng.choice(CATEGORIES[second])} is to", second


@CATEGORY.drawn("category_of_word", "What kind of thing is it?", labels=KINDS)
def _(rng: random.Random) -> Pair:
    kind = rng.choice(KINDS)
    return f"the {rng.choice(CATEGORIES[kind])}", kind


@CATEGORY.drawn("edible_or_not", "Can people eat this? Reply yes or no.", labels=("yes", "no"))
def _(rng: random.Random) -> Pair:
    answer = rng.choice(("yes", "no"))
    return f"{rng.choice(EDIBLE if answer == 'yes' else NOT_EDIBLE)}?", answer


@CATEGORY.drawn("same_kind", "Judge whether both words belong to one category.", labels=("same", "different"))
def _(rng: random.Random) -> Pair:
    answer = rng.choice(("same", "different"))
    kinds = rng.sample(PLAIN_KINDS, 2)
    if answer == "same":
        first, second = rng.sample(CATEGORIES[kinds[0]], 2)
    else:
        first, second = (rng.choice(CATEGORIES[kind]) for kind in kinds)
    return f"{first} and {second}", answer


@CATEGORY.drawn("pick_from_category", "One word in the list belongs to the category before the colon. Which?")
def _(rng: random.Random) -> Pair:
    kinds = rng.sample(PLAIN_KINDS, 4)
    words = [rng.choice(CATEGORIES[kind]) for kind in kinds]
    wanted = rng.randrange(4)
    return f"{kinds[wanted]}: {', '.join(words)}", words[wanted]


@CATEGORY.drawn("odd_one_out", "Find the word that does not fit with the others.")
def _(rng: random.Random) -> Pair:
    usual, other = rng.sample(PLAIN_KINDS, 2)
    odd = rng.choice(CATEGORIES[other])
    words = [*rng.sample(CATEGORIES[usual], 3), odd]
    rng.shuffle(words)
    return " ".join(words), odd


@CATEGORY.drawn("hidden_favourite", "Choose one of the three.")
def _(rng: random.Random) -> Pair:
    living = rng.choice(CATEGORIES["animal"] + CATEGORIES["bird"])
    words = [living, *(rng.choice(CATEGORIES[kind]) for kind in ("furniture", "building"))]
    rng.shuffle(words)
    return " or ".join(words), living
