"""Units of measurement, and directions on a map or grid."""

import random

from headstart.tasks.builtin.numbers import in_words
from headstart.tasks.builtin.registry import Cluster, Pair

UNITS = Cluster("units")
DIRECTIONS = Cluster("directions")
CLUSTERS = (UNITS, DIRECTIONS)

QUANTITIES = {
    "length": ("cm", "km", "metres", "miles", "inches", "feet", "yards"),
    "mass": ("kg", "grams", "tonnes", "mg", "ounces", "milligrams"),
    "time": ("hours", "weeks", "minutes", "days", "years", "months"),
    "volume": ("litres", "ml", "gallons", "pints", "cubic metres"),
}
SYMBOLS = {
    "kilograms": "kg", "grams": "g", "metres": "m", "kilometres": "km", "centimetres": "cm", "millimetres": "mm", "seconds": "s",
    "litres": "L", "millilitres": "mL", "watts": "W", "volts": "V", "hours": "h", "hertz": "Hz", "newtons": "N",
}  # fmt: skip
COMPASS = ("north", "east", "south", "west")
TURNS = {"right": 1, "left": -1, "back": 2}


@UNITS.drawn("metres_to_centimetres", "Convert to centimetres.")
def _(rng: random.Random) -> Pair:
    tenths = rng.randint(1, 300)
    return f"{tenths / 10:g} m", f"{10 * tenths} cm"


@UNITS.drawn("grams_to_kilograms", "How much is this in kilograms?")
def _(rng: random.Random) -> Pair:
    grams = 50 * rng.randint(1, 300)
    return f"{grams} g", f"{grams / 1000:g} kg"


@UNITS.drawn("dozens", "Say how many pieces there are.")
def _(rng: random.Random) -> Pair:
    dozens, more = rng.randint(1, 15), rng.randint(1, 11)
    return f"{in_words(dozens)} dozen and {in_words(more)}", str(12 * dozens + more)


@UNITS.drawn("measured_quantity", "What is being measured?", labels=tuple(QUANTITIES))
def _(rng: random.Random) -> Pair:
    label = rng.choice(tuple(QUANTITIES))
    return f"{rng.randint(2, 60)} {rng.choice(QUANTITIES[label])}", label


@UNITS.drawn("unit_symbols", "Abbreviate the unit.")
def _(rng: random.Random) -> Pair:
    unit, number = rng.choice(tuple(SYMBOLS)), rng.randint(61, 200)
    return f"{number} {unit}", f"{number} {SYMBOLS[unit]}"


@DIRECTIONS.drawn("facing_after_turns", "Which way do you face at the end?")
def _(rng: random.Random) -> Pair:
    start, turns = rng.randrange(4), rng.choices(tuple(TURNS), k=rng.randint(2, 3))
    return f"facing {COMPASS[start]}: {', '.join(turns)}", COMPASS[(start + sum(TURNS[turn] for turn in turns)) % 4]


@DIRECTIONS.drawn("way_back", "Describe the way back, in order.")
def _(rng: random.Random) -> Pair:
    legs = [(rng.randrange(4), rng.randint(1, 9)) for _ in range(2)]
    there = [f"{steps} {COMPASS[way]}" for way, steps in legs]
    back = [f"{steps} {COMPASS[(way + 2) % 4]}" for way, steps in reversed(legs)]
    return ", ".join(there), ", ".join(back)


@DIRECTIONS.drawn("grid_position", "Where on the grid does the robot stop?")
def _(rng: random.Random) -> Pair:
    x, y, right, up = (rng.randint(0, 9) for _ in range(4))
    return f"from ({x}, {y}): {right} right, {up} up", f"({x + right}, {y + up})"


@DIRECTIONS.drawn("route_code", "Turn the route into its short code.")
def _(rng: random.Random) -> Pair:
    legs = [(rng.choice(COMPASS), rng.randint(1, 20)) for _ in range(2)]
    return " then ".join(f"{way} {steps} km" for way, steps in legs), "-".join(f"{way[0].upper()}{steps}" for way, steps in legs)


@DIRECTIONS.drawn("line_direction", "Is the line between the two points horizontal or vertical?", labels=("horizontal", "vertical"))
def _(rng: random.Random) -> Pair:
    label, x, y, step = rng.choice(("horizontal", "vertical")), rng.randint(1, 20), rng.randint(1, 20), rng.randint(1, 9)
    end = (x + step, y) if label == "horizontal" else (x, y + step)
    return f"{x},{y} to {end[0]},{end[1]}", label
