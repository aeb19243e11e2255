"""Dates and clock times."""

import calendar
import datetime
import random

from headstart.tasks.builtin.numbers import in_words, ordinal
from headstart.tasks.builtin.registry import Cluster, Pair

DATES = Cluster("dates")
CLOCK = Cluster("clock_times")
CLUSTERS = (DATES, CLOCK)

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
SEASONS = ("winter", "spring", "summer", "autumn")
PARTS_OF_DAY = {"night": (0, 5), "morning": (6, 11), "afternoon": (12, 17), "evening": (18, 23)}


def _date(rng: random.Random) -> datetime.date:
    return datetime.date(rng.randint(1950, 2039), rng.randint(1, 12), rng.randint(1, 28))


def _month_and_day(date: datetime.date) -> str:
    return f"{MONTHS[date.month - 1]} {date.day}"


def _time(hour: int, minute: int) -> str:
    return f"{hour}:{minute:02}"


@DATES.drawn("weekday_offset", "What day of the week is it then?")
def _(rng: random.Random) -> Pair:
    start, offset = rng.randrange(7), rng.choice([*range(-9, -1), *range(2, 15)])
    direction = "days after" if offset > 0 else "days before"
    return f"{abs(offset)} {direction} {DAYS[start]}", DAYS[(start + offset) % 7]


@DATES.drawn("date_to_iso", "Convert the date to YYYY-MM-DD.")
def _(rng: random.Random) -> Pair:
    date = _date(rng)
    return f"{MONTHS[date.month - 1]} {date.day}, {date.year}", date.isoformat()


@DATES.drawn("house_date", "Rewrite the date in our house format.")
def _(rng: random.Random) -> Pair:
    date = _date(rng)
    return date.isoformat(), f"{date.day} {MONTHS[date.month - 1][:3].upper()} '{date.year % 100:02}"


@DATES.drawn("days_in_month", "How many days does this month have?", labels=("28", "29", "30", "31"))
def _(rng: random.Random) -> Pair:
    year, month = rng.randint(1904, 2096), rng.choice((2, 2, rng.randint(1, 12)))
    return f"{MONTHS[month - 1]} {year}", str(calendar.monthrange(year, month)[1])


@DATES.drawn("season_of_date", "Which season is it in the northern half of the world?", labels=SEASONS)
def _(rng: random.Random) -> Pair:
    month = rng.randint(1, 12)
    # Astronomers and forecasters start seasons on different days, so the months of change keep to dates that both agree on.
    day = rng.randint(1, 28) if month % 3 else rng.randint(23, 30)
    return f"{ordinal(day)} of {MONTHS[month - 1]}", SEASONS[month % 12 // 3]


@DATES.drawn("next_day", "State the day that follows.")
def _(rng: random.Random) -> Pair:
    month = rng.randint(1, 12)
    # What follows 28 February depends on the year.
    last = calendar.monthrange(2023, month)[1] if month != 2 else 27
    date = datetime.date(2023, month, rng.choice((last, rng.randint(1, last))))
    return _month_and_day(date), _month_and_day(date + datetime.timedelta(days=1))


@CLOCK.drawn("to_twelve_hours", "Change the 24-hour time to am or pm.")
def _(rng: random.Random) -> Pair:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f"{hour:02}:{minute:02}", f"{_time(hour % 12 or 12, minute)} {'am' if hour < 12 else 'pm'}"


@CLOCK.drawn("spoken_time", "Write the spoken time in digits.")
def _(rng: random.Random) -> Pair:
    hour, minute = rng.randint(1, 12), rng.choice((5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55))
    step = {15: "quarter", 30: "half"}.get(minute if minute <= 30 else 60 - minute) or in_words(minute if minute <= 30 else 60 - minute)
    if minute > 30:
        return f"{step} to {in_words(hour % 12 + 1)}", _time(hour, minute)
    return f"{step} past {in_words(hour)}", _time(hour, minute)


@CLOCK.drawn("time_after_wait", "When does it end? Stay on the 24-hour clock.")
def _(rng: random.Random) -> Pair:
    start, wait = rng.randint(0, 22 * 60), 5 * rng.randint(1, 20)
    return f"starts {_time(*divmod(start, 60))}, lasts {wait} minutes", _time(*divmod(start + wait, 60))


@CLOCK.drawn("part_of_day", "Which part of the day is this by our timetable?", labels=tuple(PARTS_OF_DAY))
def _(rng: random.Random) -> Pair:
    label = rng.choice(tuple(PARTS_OF_DAY))
    hour, minute = rng.randint(*PARTS_OF_DAY[label]), rng.randrange(60)
    return f"at {hour:02}.{minute:02}", label


@CLOCK.drawn("duration_in_minutes", "How many minutes is that?")
def _(rng: random.Random) -> Pair:
    hours, minutes = rng.randint(1, 5), rng.randint(1, 59)
    return f"{hours} h {minutes} min", str(60 * hours + minutes)
