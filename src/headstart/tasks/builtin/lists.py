"""Operations on short lists, and continuing sequences."""

import random
from string import ascii_uppercase as CAPITALS

from headstart.tasks.builtin.facts.nouns import NOUNS, OTHERS
from headstart.tasks.builtin.facts.people import FIRST_NAMES
from headstart.tasks.builtin.registry import Cluster, Pair

LISTS = Cluster("lists")
HIDDEN_LISTS = Cluster("hidden_list_rules")
SEQUENCES = Cluster("sequences")
CLUSTERS = (LISTS, HIDDEN_LISTS, SEQUENCES)

WORDS = NOUNS + OTHERS


@LISTS.drawn("longest_word", "Which word in the list has the most letters?")
def _(rng: random.Random) -> Pair:
    lengths = rng.sample(range(3, 10), 3)
    words = [rng.choice([word for word in WORDS if len(word) == length]) for length in lengths]
    return ", ".join(words), max(words, key=len)


@LISTS.drawn("sort_words", "Sort alphabetically.")
def _(rng: random.Random) -> Pair:
    words = rng.sample(WORDS, 3)
    return " ".join(words), " ".join(sorted(words))


@LISTS.drawn("count_items", "How many items are there in the list?")
def _(rng: random.Random) -> Pair:
    words = rng.sample(WORDS, rng.randint(2, 7))
    return "; ".join(words), str(len(words))


@LISTS.drawn("drop_repeats", "Remove every repeated word, keeping the first of each.")
def _(rng: random.Random) -> Pair:
    words = rng.sample(WORDS, 3)
    doubled = words + rng.choices(words, k=2)
    rng.shuffle(doubled)
    return " ".join(doubled), " ".join(dict.fromkeys(doubled))


@LISTS.drawn("item_before_last", "State the item just before the last one.")
def _(rng: random.Random) -> Pair:
    words = rng.sample(WORDS, rng.randint(3, 6))
    return " > ".join(words), words[-2]


@LISTS.drawn("sort_numbers", "Order these numbers from small to large.")
def _(rng: random.Random) -> Pair:
    numbers = rng.sample(range(1, 100), 4)
    return " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers)))


@HIDDEN_LISTS.drawn("second_and_last", "Pick from the list.")
def _(rng: random.Random) -> Pair:
    words = rng.sample(WORDS, rng.randint(4, 5))
    return " | ".join(words), f"{words[1]} {words[-1]}"


@HIDDEN_LISTS.drawn("ends_exchanged", "Rearrange the names in the agreed way.")
def _(rng: random.Random) -> Pair:
    first, second, third = rng.sample(FIRST_NAMES, 3)
    return f"{first}, {second}, {third}", f"{third}, {second}, {first}"


@HIDDEN_LISTS.drawn("only_large_numbers", "Filter the numbers.")
def _(rng: random.Random) -> Pair:
    kept = rng.sample(range(51, 100), 2)
    numbers = kept + rng.sample(range(1, 50), 2)
    rng.shuffle(numbers)
    return " ".join(map(str, numbers)), " ".join(str(number) for number in numbers if number > 50)


@HIDDEN_LISTS.drawn("shortest_in_capitals", "Treat the list as shown.")
def _(rng: random.Random) -> Pair:
    lengths = rng.sample(range(3, 10), 3)
    words = [rng.choice([word for word in WORDS if len(word) == length]) for length in lengths]
    return " / ".join(words), min(words, key=len).upper()


@SEQUENCES.drawn("next_by_adding", "What number comes next?")
def _(rng: random.Random) -> Pair:
    start, step = rng.randint(1, 40), rng.randint(2, 12)
    return ", ".join(str(start + step * index) for index in range(4)), str(start + 4 * step)


@SEQUENCES.drawn("next_by_multiplying", "Continue the series with one more term.")
def _(rng: random.Random) -> Pair:
    start, factor = rng.randint(1, 60), rng.choice((2, 3, 10))
    return ", ".join(str(start * factor**index) for index in range(3)), str(start * factor**3)


@SEQUENCES.drawn("next_letter", "Say which letter follows in this sequence.")
def _(rng: random.Random) -> Pair:
    step = rng.choice((-4, -3, -2, -1, 1, 2, 3, 4))
    start = rng.randrange(14) if step > 0 else rng.randrange(12, 26)
    letters = [CAPITALS[start + step * index] for index in range(4)]
    return " ".join(letters[:3]), letters[3]


@SEQUENCES.drawn("missing_in_row", "Fill the gap in the row of numbers.")
def _(rng: random.Random) -> Pair:
    start, step, gap = rng.randint(1, 50), rng.randint(2, 10), rng.randint(1, 3)
    terms = [str(start + step * index) for index in range(5)]
    return " ".join("_" if index == gap else term for index, term in enumerate(terms)), terms[gap]


@SEQUENCES.drawn("rise_or_fall", "Describe the trend of the values.", labels=("rising", "falling", "constant", "mixed"))
def _(rng: random.Random) -> Pair:
    label = rng.choice(("rising", "falling", "constant", "mixed"))
    low, middle, high = sorted(rng.sample(range(1, 100), 3))
    values = {"rising": (low, middle, high), "falling": (high, middle, low), "constant": (low,) * 3, "mixed": (middle, high, low)}[label]
    return " ".join(map(str, values)), label
