"""Sums in digits, in words, with made-up signs, and with money."""

import random

from headstart.tasks.builtin.facts.people import FIRST_NAMES
from headstart.tasks.builtin.numbers import in_words
from headstart.tasks.builtin.registry import Cluster, Pair

DIGITS = Cluster("arithmetic_in_digits")
WORDS = Cluster("arithmetic_in_words")
SIGNS = Cluster("made_up_operators")
MONEY = Cluster("money")
CLUSTERS = (DIGITS, WORDS, SIGNS, MONEY)

THINGS = ["pens", "apples", "coins", "books", "stamps", "cards", "eggs", "shells", "marbles", "tickets"]


@DIGITS.drawn("sum_of_two", "Add the two numbers.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    return f"{a} + {b}", str(a + b)


@DIGITS.drawn("difference_of_two", "Work out the subtraction.")
def _(rng: random.Random) -> Pair:
    b, a = sorted((rng.randint(2, 99), rng.randint(2, 99)))
    return f"{a} - {b}", str(a - b)


@DIGITS.drawn("product_of_two", "Multiply.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(2, 12), rng.randint(2, 20)
    return f"{a} x {b}", str(a * b)


@DIGITS.drawn("missing_addend", "Which number belongs in the box?")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(2, 60), rng.randint(2, 40)
    return f"{a} + [ ] = {a + b}", str(b)


@DIGITS.drawn("division_remainder", "Give the remainder of the division.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(10, 99), rng.randint(3, 9)
    return f"{a} : {b}", str(a % b)


@DIGITS.drawn("parity_of_sum", "Is the sum odd or even?", labels=("odd", "even"))
def _(rng: random.Random) -> Pair:
    a, b, c = (rng.randint(1, 50) for _ in range(3))
    return f"{a} + {b} + {c}", ("even", "odd")[(a + b + c) % 2]


@WORDS.drawn("sum_in_words", "Calculate and answer in words.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    return f"{in_words(a)} plus {in_words(b)}", in_words(a + b)


@WORDS.drawn("double_or_half", "Answer with a number word.")
def _(rng: random.Random) -> Pair:
    number = rng.randint(1, 70)
    if rng.random() < 0.5:
        return f"double {in_words(number)}", in_words(2 * number)
    return f"half of {in_words(2 * number)}", in_words(number)


@WORDS.drawn("story_sum", "Solve this little problem; reply with the number only.")
def _(rng: random.Random) -> Pair:
    name, thing, a, b = rng.choice(FIRST_NAMES), rng.choice(THINGS), rng.randint(12, 40), rng.randint(2, 11)
    verb, total = rng.choice((("buys", a + b), ("loses", a - b)))
    return f"{name} has {a} {thing} and {verb} {b}. How many now?", str(total)


@WORDS.drawn("count_down_words", "Which number word comes two before this one?")
def _(rng: random.Random) -> Pair:
    number = rng.randint(10, 199)
    return in_words(number), in_words(number - 2)


@WORDS.drawn("shared_equally", "How many does each one get? Use digits.")
def _(rng: random.Random) -> Pair:
    people, each = rng.randint(2, 9), rng.randint(2, 12)
    return f"{in_words(people)} children share {people * each} {rng.choice(THINGS)}", str(each)


@SIGNS.drawn("operator_hash", "Compute the result of the # operation.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 15), rng.randint(1, 15)
    return f"{a} # {b}", str(2 * a + b)


@SIGNS.drawn("operator_at", "Evaluate.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 40), rng.randint(1, 40)
    return f"{a} @ {b}", str(abs(a - b) + 1)


@SIGNS.drawn("operator_join", "Find the value of this expression.")
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    return f"{a} ~ {b}", f"{max(a, b)}{min(a, b)}"


@SIGNS.drawn("operator_digits", "What does the machine show for this input?")
def _(rng: random.Random) -> Pair:
    number = rng.randint(10, 999)
    return f"[{number}]", str(sum(map(int, str(number))))


@SIGNS.drawn("operator_verdict", "Zig or zag?", labels=("zig", "zag"))
def _(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 30), rng.randint(1, 30)
    return f"{a} % {b}", "zig" if a + b > 30 else "zag"


@MONEY.drawn("change_due", "How much change does the customer get?")
def _(rng: random.Random) -> Pair:
    paid = rng.choice((10, 20, 50, 100))
    price = rng.randint(1, paid - 1)
    return f"price ${price}, paid ${paid}", f"${paid - price}"


@MONEY.drawn("total_price", "Tell the total.")
def _(rng: random.Random) -> Pair:
    count, price = rng.randint(2, 9), rng.randint(2, 15)
    return f"{count} {rng.choice(THINGS)} at ${price} each", f"${count * price}"


@MONEY.drawn("enough_money", "Is the money enough to buy it?", labels=("yes", "no"))
def _(rng: random.Random) -> Pair:
    have, cost = rng.sample(range(5, 99), 2)
    return f"I have ${have}. It costs ${cost}.", "yes" if have > cost else "no"


@MONEY.drawn("cents_to_dollars", "Express the amount in dollars.")
def _(rng: random.Random) -> Pair:
    cents = rng.randint(5, 2000)
    return f"{cents} cents", f"${cents / 100:.2f}"


@MONEY.drawn("half_price", "Everything is half price today. What does it cost now?")
def _(rng: random.Random) -> Pair:
    half = rng.randint(2, 60)
    return f"{rng.choice(THINGS)}, usually ${2 * half}", f"${half}"
