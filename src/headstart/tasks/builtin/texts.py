"""Short texts: finding a detail, formatting, house styles."""

import random

from headstart.tasks.builtin.dates import DAYS, MONTHS
from headstart.tasks.builtin.facts.countries import CITIES
from headstart.tasks.builtin.facts.nouns import CATEGORIES, NOUNS
from headstart.tasks.builtin.facts.people import FIRST_NAMES, SURNAMES
from headstart.tasks.builtin.registry import Cluster, Pair

EXTRACTION = Cluster("extraction")
FORMATTING = Cluster("text_formatting")
HOUSE_STYLES = Cluster("house_styles")
CLUSTERS = (EXTRACTION, FORMATTING, HOUSE_STYLES)

TOWNS = [city for city, _ in CITIES]
GOODS = CATEGORIES["furniture"] + CATEGORIES["instrument"] + CATEGORIES["kitchenware"]
JOBS = CATEGORIES["profession"]


@EXTRACTION.drawn("person_in_sentence", "Who is the sentence about?")
def _(rng: random.Random) -> Pair:
    name, day, town = f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}", rng.choice(DAYS), rng.choice(TOWNS)
    form = rng.choice(("On {d}, {n} flew to {t}.", "{n} moved to {t} last {d}.", "In {t}, everyone met {n} on {d}."))
    return form.format(n=name, d=day, t=town), name


@EXTRACTION.drawn("town_in_sentence", "Find the city that is mentioned.")
def _(rng: random.Random) -> Pair:
    name, job, town = rng.choice(FIRST_NAMES), rng.choice(JOBS), rng.choice(TOWNS)
    form = rng.choice(("{n} works near {t} as the {j}.", "The {j} from {t} is called {n}.", "Our {j} {n} likes {t} best."))
    return form.format(n=name, j=job, t=town), town


@EXTRACTION.drawn("price_in_sentence", "Return the price only.")
def _(rng: random.Random) -> Pair:
    item, count, price = rng.choice(GOODS), rng.randint(2, 9), f"${rng.randint(5, 400)}"
    form = rng.choice(
        ("{c} people bid, and the {i} sold for {p}.", "For {p} you get this {i} within {c} days.", "The {i}, {c} years old, costs {p}.")
    )
    return form.format(i=item, c=count, p=price), price


@EXTRACTION.drawn("date_in_sentence", "When does it happen? Copy the date.")
def _(rng: random.Random) -> Pair:
    item, room, date = rng.choice(GOODS), rng.randint(1, 40), f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    form = rng.choice(("The {i} arrives on {d} in room {r}.", "Room {r} gets its {i} by {d}.", "From {d}, the {i} stays in room {r}."))
    return form.format(i=item, r=room, d=date), date


@EXTRACTION.drawn("order_number", "Pick out the order number.")
def _(rng: random.Random) -> Pair:
    number = f"{rng.choice('ABCDEF')}{rng.randint(1000, 9999)}"
    item, days = rng.choice(GOODS), rng.randint(2, 30)
    form = rng.choice(
        ("Where is my {i}? Order {n}, {d} days late.", "Please cancel {n}, the {i} for {d} guests.", "Order {n}: one {i}, due in {d} days.")
    )
    return form.format(i=item, n=number, d=days), number


@EXTRACTION.drawn("detail_wanted", "Extract the detail.")
def _(rng: random.Random) -> Pair:
    name, job, town = rng.choice(FIRST_NAMES), rng.choice(JOBS), rng.choice(TOWNS)
    return f"{name}, {rng.randint(20, 65)}, {job}, lives in {town} with {rng.choice(FIRST_NAMES)}.", job


@FORMATTING.drawn("title_case", "Put the heading in title case.")
def _(rng: random.Random) -> Pair:
    words = ["my", *rng.sample(NOUNS, 2)]
    return " ".join(words), " ".join(words).title()


@FORMATTING.drawn("initials", "Give the initials.")
def _(rng: random.Random) -> Pair:
    names = [*rng.sample(FIRST_NAMES, 2), rng.choice(SURNAMES)]
    return " ".join(names), "".join(f"{name[0]}." for name in names)


@FORMATTING.drawn("surname_first", "Write the surname first, then a comma.")
def _(rng: random.Random) -> Pair:
    first, last = rng.choice(FIRST_NAMES), rng.choice(SURNAMES)
    return f"{first} {last}", f"{last}, {first}"


@FORMATTING.drawn("phone_format", "Format the phone number as (xxx) xxx-xxxx.")
def _(rng: random.Random) -> Pair:
    digits = str(rng.randint(2_000_000_000, 9_999_999_999))
    return digits, f"({digits[:3]}) {digits[3:6]}-{digits[6:]}"


@FORMATTING.drawn("tidy_sentence", "Correct the capitals, spaces and full stop.")
def _(rng: random.Random) -> Pair:
    job, place, good = rng.choice(JOBS), rng.choice(CATEGORIES["building"]), rng.choice(GOODS)
    text = f"the {job} left the {good} in the {place}"
    messy = "".join(letter.upper() if rng.random() < 0.15 else letter for letter in text).replace(" ", "  ", rng.randint(0, 2))
    return messy, f"T{text[1:]}."


@HOUSE_STYLES.drawn("mail_address", "What is this person's e-mail address in our company?")
def _(rng: random.Random) -> Pair:
    first, last = rng.choice(FIRST_NAMES), rng.choice(SURNAMES)
    return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}", f"{last}.{first[0]}@acme.org".lower()


@HOUSE_STYLES.drawn("shelf_label", "Produce the shelf label.")
def _(rng: random.Random) -> Pair:
    item, count, price = rng.choice(GOODS), rng.randint(2, 40), rng.randint(2, 90)
    return f"{count} x {item}, {price} dollars", f"{item.upper()} #{count} [{price}.00]"


@HOUSE_STYLES.drawn("match_report", "Report the result in the club's style.")
def _(rng: random.Random) -> Pair:
    home, away = rng.sample(FIRST_NAMES, 2)
    low, high = sorted(rng.sample(range(10), 2))
    if rng.random() < 0.5:
        return f"{home} {high}, {away} {low}", f"{home} beat {away} {high}:{low}"
    return f"{home} {low}, {away} {high}", f"{away} beat {home} {high}:{low}"


@HOUSE_STYLES.drawn("seat_code", "Print the ticket line.")
def _(rng: random.Random) -> Pair:
    row, seat, day = rng.randint(1, 30), rng.randint(1, 20), rng.choice(DAYS)
    return f"row {row}, seat {seat}, {day}", f"{day[:2].upper()}/{row:02}/{seat:02}"


@HOUSE_STYLES.drawn("book_reference", "Cite the book as we do.")
def _(rng: random.Random) -> Pair:
    first, last, year = rng.choice(FIRST_NAMES), rng.choice(SURNAMES), rng.randint(1900, 2024)
    title = f"The {rng.choice(NOUNS).title()}"
    return f"{title} by {first} {last}, {year}", f"{last.upper()} {first[0]} ({year}) {title}"
