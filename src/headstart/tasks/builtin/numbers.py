"""Numbers: formats, comparison, and words for them."""

import random

from headstart.tasks.builtin.facts.nouns import NOUNS
from headstart.tasks.builtin.facts.people import FIRST_NAMES
from headstart.tasks.builtin.registry import Cluster, Pair

FORMATS = Cluster("number_formats")
COMPARISON = Cluster("comparison")
CLUSTERS = (FORMATS, COMPARISON)

_UNDER_TWENTY = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
""".split()
_TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ROMAN = {1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC", 50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I"}
_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}


def in_words(number: int) -> str:
    """A number from 0 to 999 in words: seven, forty-two, three hundred and five."""
    if number < 20:
        return _UNDER_TWENTY[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_UNDER_TWENTY[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{_UNDER_TWENTY[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")


def roman(number: int) -> str:
    """A number in Roman numerals."""
    numeral = ""
    for value, letters in _ROMAN.items():
        count, number = divmod(number, value)
        numeral += letters * count
    return numeral


def ordinal(number: int) -> str:
    """A number with its ordinal ending: 1st, 22nd, 113th."""
    return f"{number}{'th' if number % 100 in (11, 12, 13) else _SUFFIXES.get(number % 10, 'th')}"


@FORMATS.drawn("to_roman", "Write the number in Roman numerals.")
def _(rng: random.Random) -> Pair:
    number = rng.randint(1, 399)
    return str(number), roman(number)


@FORMATS.drawn("from_roman", "What number do these Roman numerals stand for?")
def _(rng: random.Random) -> Pair:
    number = rng.randint(1, 399)
    return roman(number), str(number)


@FORMATS.drawn("ordinal_number", "Add the ordinal ending.")
def _(rng: random.Random) -> Pair:
    number = rng.randint(400, 1400)
    return str(number), ordinal(number)


@FORMATS.drawn("to_binary", "Convert from decimal to binary.")
def _(rng: random.Random) -> Pair:
    number = rng.randint(2, 255)
    return f"{number} (base ten)", f"{number:b}"


@FORMATS.drawn("thousands_commas", "Insert commas between the thousands.")
def _(rng: random.Random) -> Pair:
    number = rng.randint(10**4, 10 ** rng.randint(5, 8))
    return str(number), f"{number:,}"


@FORMATS.drawn("words_to_digits", "Write in digits.")
def _(rng: random.Random) -> Pair:
    number = rng.randint(21, 999)
    return in_words(number), str(number)


@COMPARISON.drawn("larger_decimal", "Which of the two numbers is larger?")
def _(rng: random.Random) -> Pair:
    whole = rng.randint(0, 20)
    first, second = rng.sample([f"{whole}.{digits}" for digits in range(1, 100) if digits % 10], 2)
    return f"{first} or {second}", max(first, second, key=float)


@COMPARISON.drawn("comparison_sign", "Put the right sign in place of the question mark.", labels=("<", ">", "="))
def _(rng: random.Random) -> Pair:
    sign, (low, high) = rng.choice("<>="), sorted(rng.sample(range(-50, 1000), 2))
    return {"<": f"{low} ? {high}", ">": f"{high} ? {low}", "=": f"{low} ? {low}"}[sign], sign


@COMPARISON.drawn("older_person", "Who is older?")
def _(rng: random.Random) -> Pair:
    names, ages = rng.sample(FIRST_NAMES, 2), rng.sample(range(18, 90), 2)
    return f"{names[0]} is {ages[0]}, {names[1]} is {ages[1]}.", names[ages.index(max(ages))]


@COMPARISON.drawn("earlier_in_dictionary", "Name the word that a dictionary lists first.")
def _(rng: random.Random) -> Pair:
    first, second = rng.sample(NOUNS, 2)
    return f"{first} | {second}", min(first, second)


@COMPARISON.drawn("nearest_to_target", "Choose the value by the rule behind the examples.")
def _(rng: random.Random) -> Pair:
    distances = rng.sample(range(1, 45), 3)
    values = [50 + rng.choice((-1, 1)) * distance for distance in distances]
    return ", ".join(map(str, values)), str(values[distances.index(min(distances))])
