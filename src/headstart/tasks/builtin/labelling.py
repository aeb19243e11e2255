"""Classification: arbitrary labels behind a hidden property, moods of remarks, intents of requests."""

import itertools
import random

from headstart.tasks.builtin.facts.nouns import CATEGORIES, NOUNS, OTHERS
from headstart.tasks.builtin.facts.people import MEN, SURNAMES, WOMEN
from headstart.tasks.builtin.registry import Cluster, Pair

CODES = Cluster("arbitrary_labels")
MOODS = Cluster("sentiment")
INTENTS = Cluster("intents")
CLUSTERS = (CODES, MOODS, INTENTS)

WORDS = NOUNS + OTHERS
LIVING = CATEGORIES["animal"] + CATEGORIES["bird"] + CATEGORIES["insect"]
_OBJECTS = CATEGORIES["tool"] + CATEGORIES["furniture"] + CATEGORIES["kitchenware"] + CATEGORIES["vehicle"]
# Only words that take the article "a", so that the templates stay good English.
THINGS = [noun for noun in _OBJECTS if noun[0] not in "aeiou"]
PETS = [noun for noun in CATEGORIES["animal"] if noun[0] not in "aeiou"]


@CODES.drawn("code_for_first_letter", "Answer foo or bar.", labels=("foo", "bar"))
def _(rng: random.Random) -> Pair:
    first, second = rng.sample(WORDS, 2)
    return f"{first}, {second}.", "foo" if first[0] in "aeiou" else "bar"


@CODES.drawn("code_for_length", "Sort the word into K1 or K2.", labels=("K1", "K2"))
def _(rng: random.Random) -> Pair:
    word = rng.choice(WORDS)
    return f"word: {word}", "K1" if len(word) % 2 else "K2"


@CODES.drawn("code_for_living", "Which label fits, zim or zam?", labels=("zim", "zam"))
def _(rng: random.Random) -> Pair:
    label = rng.choice(("zim", "zam"))
    return f"a {rng.choice(['small', 'big', 'new'])} {rng.choice(LIVING if label == 'zim' else THINGS)}", label


@CODES.drawn("code_for_number", "Assign the number to its group.", labels=("dax", "wug", "lep"))
def _(rng: random.Random) -> Pair:
    number = rng.randint(1, 999)
    return f"no. {number}", ("dax", "wug", "lep")[(number > 99) + (number > 499)]


@CODES.drawn("code_for_double_letter", "Pass or stop?", labels=("pass", "stop"))
def _(rng: random.Random) -> Pair:
    word, name = rng.choice(WORDS), rng.choice(SURNAMES)
    return f"{name}: {word}", "pass" if any(a == b for a, b in itertools.pairwise(word)) else "stop"


@CODES.drawn("code_for_name", "Red team or blue team?", labels=("red", "blue"))
def _(rng: random.Random) -> Pair:
    team = rng.choice(("red", "blue"))
    return f"{rng.choice(WOMEN if team == 'red' else MEN)} {rng.choice('ABCDEFGHJKLMNPRSTW')}.", team


GOOD = ["great", "lovely", "excellent", "wonderful", "superb", "delightful"]
BAD = ["awful", "terrible", "dreadful", "horrible", "poor", "disappointing"]
PLAIN = ["average", "ordinary", "usual", "standard", "unremarkable"]
SERVED = ["soup", "bread", "coffee", "pizza", "salad", "cake", "fish", "rice", "tea", "pasta"]
FILM_PARTS = ["plot", "ending", "music", "acting", "dialogue", "opening", "cast", "story"]
GADGETS = ["phone", "laptop", "camera", "watch", "printer", "speaker", "tablet", "keyboard", "monitor", "headset"]


@MOODS.drawn("meal_review", "Is the guest's remark positive or negative?", labels=("positive", "negative"))
def _(rng: random.Random) -> Pair:
    label = rng.choice(("positive", "negative"))
    form = rng.choice(("The {s} was {w}.", "What {w} {s}!", "We had {w} {s} here."))
    return form.format(s=rng.choice(SERVED), w=rng.choice(GOOD if label == "positive" else BAD)), label


@MOODS.drawn("film_review", "Grade the comment on the film.", labels=("A7", "B2", "C4"))
def _(rng: random.Random) -> Pair:
    label, words = rng.choice((("A7", GOOD), ("B2", BAD), ("C4", PLAIN)))
    form = rng.choice(("The {p} is simply {w}.", "I found the {p} {w}.", "Its {p}? Quite {w}."))
    return form.format(p=rng.choice(FILM_PARTS), w=rng.choice(words)), label


@MOODS.drawn("mixed_opinion", "Which of the two parts does the writer praise: both, one or neither?", labels=("both", "one", "neither"))
def _(rng: random.Random) -> Pair:
    label, first, second = rng.choice((("both", GOOD, GOOD), ("neither", BAD, BAD), ("one", GOOD, BAD), ("one", BAD, GOOD)))
    return f"{rng.choice(GADGETS)}: {rng.choice(first)} screen, {rng.choice(second)} battery", label


@MOODS.drawn("negated_opinion", "Would this person recommend it?", labels=("yes", "no"))
def _(rng: random.Random) -> Pair:
    label, words = rng.choice((("yes", GOOD), ("no", BAD)))
    denied = rng.choice(GOOD if label == "no" else BAD)
    return f"My {rng.choice(GADGETS)} is not {denied}, it is {rng.choice(words)}.", label


@MOODS.drawn("feeling_of_sentence", "Which feeling does the sentence express?", labels=("joy", "anger", "fear", "sadness"))
def _(rng: random.Random) -> Pair:
    label = rng.choice(tuple(FEELINGS))
    return rng.choice(FEELINGS[label]).format(x=rng.choice(PETS)), label


FEELINGS = {
    "joy": ("I am so happy about my {x}!", "Hooray, a {x} for my birthday!"),
    "anger": ("How dare you kick my {x}!", "I am furious about that {x}!"),
    "fear": ("Help, I am scared of the {x}!", "I tremble when the {x} comes near."),
    "sadness": ("I cried when the {x} died.", "I miss my poor old {x} so much."),
}
REQUESTS = {
    "music": ("play {x}", "turn up the song {x}", "skip this track after {x}", "put on the album {x}"),
    "weather": ("will it rain in {x}", "how warm is it in {x}", "forecast for {x}", "is there snow in {x}"),
    "travel": ("book a flight to {x}", "train times to {x}", "find me a hotel in {x}", "how do I get to {x}"),
    "call": ("ring {x}", "phone {x} at work", "dial the number of {x}", "call {x} back"),
}
PLACES = ["Paris", "London", "Rome", "Berlin", "Madrid", "Vienna", "Tokyo", "Oslo", "Dublin", "Lisbon", "Prague", "Cairo"]
SONGS = ["Sunrise", "Moonlight", "Thunder", "Freedom", "Gravity", "Horizon", "Silence", "Paradise", "Runaway", "Wildfire"]
DEPARTMENTS = {
    "R1": ("My invoice for the {x} is wrong.", "You charged me twice for the {x}.", "I want a refund for the {x}."),
    "R2": ("The {x} does not turn on.", "How do I reset my {x}?", "My {x} keeps crashing."),
    "R3": ("When will my {x} arrive?", "The {x} came to the wrong address.", "My parcel with the {x} is late."),
}
REPLY_TO = {
    "person": ("Who broke the {x}?", "Whose {x} is this?", "Who can carry a {x}?", "Who sold you that {x}?"),
    "place": ("Where is the {x}?", "Where can I buy a {x}?", "Where did you put my {x}?", "Where was this {x} made?"),
    "time": ("When will the {x} be ready?", "When did you lose your {x}?", "When may I use the {x}?", "When do you need a {x}?"),
    "reason": ("Why is the {x} wet?", "Why do you want a {x}?", "Why did they hide our {x}?", "Why does this {x} smell?"),
}


@INTENTS.drawn("assistant_request", "Which skill should handle the request?", labels=tuple(REQUESTS))
def _(rng: random.Random) -> Pair:
    skill = rng.choice(tuple(REQUESTS))
    slot = rng.choice({"music": SONGS, "call": WOMEN + MEN}.get(skill, PLACES))
    return rng.choice(REQUESTS[skill]).format(x=slot), skill


@INTENTS.drawn("department_code", "Route the customer's message.", labels=tuple(DEPARTMENTS))
def _(rng: random.Random) -> Pair:
    department = rng.choice(tuple(DEPARTMENTS))
    return rng.choice(DEPARTMENTS[department]).format(x=rng.choice([*GADGETS, "router", "radio", "kettle", "toaster", "drone"])), department


@INTENTS.drawn("expected_answer", "What does the question ask for?", labels=tuple(REPLY_TO))
def _(rng: random.Random) -> Pair:
    wanted = rng.choice(tuple(REPLY_TO))
    return rng.choice(REPLY_TO[wanted]).format(x=rng.choice(THINGS)), wanted


@INTENTS.drawn("kind_of_utterance", "Question, order or statement?", labels=("question", "order", "statement"))
def _(rng: random.Random) -> Pair:
    kind = rng.choice(("question", "order", "statement"))
    thing, owner = rng.choice(THINGS), rng.choice(WOMEN)
    forms = {
        "question": ("does {o} like the {x}", "has {o} found her {x}", "is that the {x} of {o}"),
        "order": ("give {o} the {x}", "please clean the {x} for {o}", "do not show {o} the {x}"),
        "statement": ("{o} likes the {x}", "the {x} belongs to {o}", "{o} has found her {x}"),
    }
    return rng.choice(forms[kind]).format(o=owner, x=thing), kind
