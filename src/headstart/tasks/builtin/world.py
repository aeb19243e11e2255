"""Geography, animals and science."""

import random

from headstart.tasks.builtin.facts.countries import CITIES, CONTINENTS, COUNTRIES
from headstart.tasks.builtin.facts.nature import CLASS_MEMBERS, ELEMENTS, LEGS, SAYINGS, YOUNG
from headstart.tasks.builtin.numbers import in_words
from headstart.tasks.builtin.registry import Cluster, Pair

GEOGRAPHY = Cluster("geography")
ANIMALS = Cluster("animals")
SCIENCE = Cluster("science")
CLUSTERS = (GEOGRAPHY, ANIMALS, SCIENCE)

PLAIN_YOUNG = [(animal, young) for animal, young in YOUNG.items() if young not in ("tadpole", "caterpillar")]

GEOGRAPHY.table(
    "capital_of_country", "Name the capital of this country.", ((row.name, row.capital) for row in COUNTRIES), dataset="capitals"
)
GEOGRAPHY.table(
    "country_of_capital", "Of which country is it the capital?", ((row.capital, row.name) for row in COUNTRIES), dataset="capitals"
)
GEOGRAPHY.table(
    "continent_of_country",
    "On which continent does the traveller land?",
    ((f"a flight to {row.capital}, {row.name}", row.continent) for row in COUNTRIES if row.continent),
    labels=CONTINENTS,
)
GEOGRAPHY.table("country_of_city", "In which country is the city?", CITIES)
GEOGRAPHY.table(
    "currency_of_country",
    "What do people pay with there?",
    ((f"shops in {row.in_text}", row.currency) for row in COUNTRIES if row.currency),
)
GEOGRAPHY.table(
    "country_adjective",
    "Replace the phrase by one adjective.",
    ((f"from {row.in_text}", row.adjective) for row in COUNTRIES if row.adjective),
)

ANIMALS.table(
    "animal_class",
    "To which class of animals does it belong?",
    ((name.capitalize(), kind) for kind, names in CLASS_MEMBERS.items() for name in names),
    labels=tuple(CLASS_MEMBERS),
)
ANIMALS.table(
    "animal_facts",
    "Complete the sentence about the animal.",
    ((form.format(animal), answer) for form, answers in SAYINGS.items() for animal, answer in answers.items()),
)


@ANIMALS.drawn("count_legs", "How many legs are there altogether?")
def _(rng: random.Random) -> Pair:
    (first, legs), (second, more) = rng.sample(tuple(LEGS.items()), 2)
    a, b = rng.randint(2, 6), rng.randint(2, 6)
    return f"{in_words(a)} {first} and {in_words(b)} {second}", str(a * legs + b * more)


@ANIMALS.drawn("young_analogy", "Finish the comparison of animals with one word.")
def _(rng: random.Random) -> Pair:
    (first, first_young), (second, second_young) = rng.sample(PLAIN_YOUNG, 2)
    return f"{first} to {first_young} as {second} to", second_young


@ANIMALS.drawn("shared_class", "Do both animals belong to the same class?", labels=("yes", "no"))
def _(rng: random.Random) -> Pair:
    kinds = rng.sample(tuple(CLASS_MEMBERS), 2)
    if rng.random() < 0.5:
        first, second = rng.sample(CLASS_MEMBERS[kinds[0]], 2)
        return f"{first} + {second}", "yes"
    return f"{rng.choice(CLASS_MEMBERS[kinds[0]])} + {rng.choice(CLASS_MEMBERS[kinds[1]])}", "no"


SCIENCE.table("element_symbol", "Chemical symbol?", ELEMENTS, dataset="elements")
SCIENCE.table("element_name", "Which element has this symbol?", ((symbol, name) for name, symbol in ELEMENTS), dataset="elements")
SCIENCE.table(
    "element_by_number",
    "Name the chemical element with this atomic number.",
    ((f"number {index}", name) for index, (name, _) in enumerate(ELEMENTS, 1)),
    dataset="elements",
)


@SCIENCE.drawn("state_of_water", "Is water ice, liquid or steam at this temperature?", labels=("ice", "liquid", "steam"))
def _(rng: random.Random) -> Pair:
    label = rng.choice(("ice", "liquid", "steam"))
    low, high = {"ice": (-90, -2), "liquid": (2, 97), "steam": (103, 300)}[label]
    return f"{rng.randint(low, high)} °C", label


@SCIENCE.drawn("acid_or_base", "Tell whether the solution is acidic or basic.", labels=("acidic", "basic"))
def _(rng: random.Random) -> Pair:
    tenths = rng.choice([*range(5, 68), *range(72, 136)])
    return f"pH {tenths / 10:.1f}", "acidic" if tenths < 70 else "basic"
