"""Grammar of short sentences, and small logic."""

import random

from headstart.tasks.builtin.facts.nouns import CATEGORIES, NOUNS
from headstart.tasks.builtin.facts.people import FIRST_NAMES, MEN, WOMEN
from headstart.tasks.builtin.facts.verbs import IRREGULAR, REGULAR, gerund, past, third_person
from headstart.tasks.builtin.registry import Cluster, Pair

GRAMMAR = Cluster("grammar")
SENTENCES = Cluster("sentence_rewriting")
LOGIC = Cluster("logic")
CLUSTERS = (GRAMMAR, SENTENCES, LOGIC)

JOBS = CATEGORIES["profession"]
ANIMALS = CATEGORIES["animal"]
DOING = ["watch", "visit", "help", "follow", "call", "like", "love", "clean", "wash", "paint", "carry", "touch", "want", "fix", "cover"]
MADE = [("write", "wrote", "written", "letter"), ("draw", "drew", "drawn", "map"), ("break", "broke", "broken", "vase")]
MADE += [("steal", "stole", "stolen", "ring"), ("build", "built", "built", "wall"), ("eat", "ate", "eaten", "cake")]
MADE += [("find", "found", "found", "key"), ("buy", "bought", "bought", "house"), ("drive", "drove", "driven", "van")]
_NEED_NO_OBJECT = frozenset(
    """
        begin drink drive eat fall fight flee fly forget go leave lose pay ride run sing sleep speak swim win write
    """.split()
)
INTRANSITIVE = [forms for forms in IRREGULAR if forms[0] in _NEED_NO_OBJECT]
COUNTABLE = [
    noun
    for kind in ("animal", "bird", "insect", "fruit", "tool", "instrument", "furniture", "vehicle", "profession", "building")
    for noun in CATEGORIES[kind]
]


@GRAMMAR.drawn("a_or_an", "Is it a or an in the gap?", labels=("a", "an"))
def _(rng: random.Random) -> Pair:
    article, adjectives = rng.choice((("an", ("old", "odd", "ugly", "enormous", "empty")), ("a", ("new", "big", "red", "small", "broken"))))
    return f"I see ___ {rng.choice(adjectives)} {rng.choice(COUNTABLE)}.", article


@GRAMMAR.drawn("name_to_pronoun", "Replace the person's name by he or she.")
def _(rng: random.Random) -> Pair:
    pronoun, names = rng.choice((("She", WOMEN), ("He", MEN)))
    rest = f"{third_person(rng.choice(DOING))} the {rng.choice(ANIMALS)}."
    return f"{rng.choice(names)} {rest}", f"{pronoun} {rest}"


@GRAMMAR.drawn("tense_of_sentence", "In which tense is the sentence?", labels=("past", "present", "future"))
def _(rng: random.Random) -> Pair:
    tense, verb, job = rng.choice(("past", "present", "future")), rng.choice(REGULAR), rng.choice(JOBS)
    forms = {"past": past(verb), "present": third_person(verb), "future": f"will {verb}"}
    return f"The {job} {forms[tense]}.", tense


@GRAMMAR.drawn("is_or_are", "Choose is or are.", labels=("is", "are"))
def _(rng: random.Random) -> Pair:
    number, subjects = rng.choice(("is", "are")), rng.sample(FIRST_NAMES, 2)
    return f"{' and '.join(subjects) if number == 'are' else subjects[0]} ___ {gerund(rng.choice(REGULAR))}", number


@GRAMMAR.drawn("possessive", "Shorten with an apostrophe.")
def _(rng: random.Random) -> Pair:
    owner, thing = rng.choice(JOBS), rng.choice(NOUNS)
    return f"the {thing} of the {owner}", f"the {owner}'s {thing}"


@SENTENCES.drawn("question_from_statement", "Turn the statement into a yes-or-no question.")
def _(rng: random.Random) -> Pair:
    job, verb, animal = rng.choice(JOBS), rng.choice(DOING), rng.choice(ANIMALS)
    return f"The {job} {third_person(verb)} the {animal}.", f"Does the {job} {verb} the {animal}?"


@SENTENCES.drawn("passive_voice", "Put the sentence into the passive.")
def _(rng: random.Random) -> Pair:
    name, (_, form, participle, thing) = rng.choice(FIRST_NAMES), rng.choice(MADE)
    return f"{name} {form} the {thing}.", f"The {thing} was {participle} by {name}."


@SENTENCES.drawn("negative_sentence", "Make it negative, without contractions.")
def _(rng: random.Random) -> Pair:
    name, verb, kind = rng.choice(FIRST_NAMES), rng.choice(DOING), rng.choice(ANIMALS)
    return f"{name} {past(verb)} the {kind}.", f"{name} did not {verb} the {kind}."


@SENTENCES.drawn("key_fact", "Note the message in telegram style.")
def _(rng: random.Random) -> Pair:
    name, (base, form, _, thing) = rng.choice(FIRST_NAMES), rng.choice(MADE)
    return f"Yesterday {name} {form} a {thing}.", f"{name.upper()} {base.upper()} {thing.upper()} STOP"


@SENTENCES.drawn("future_sentence", "Move the sentence to the future with will.")
def _(rng: random.Random) -> Pair:
    job, (base, form, _), day = rng.choice(JOBS), rng.choice(INTRANSITIVE), rng.choice(("today", "again"))
    return f"The {job} {form} {day}.", f"The {job} will {base} {day}."


@LOGIC.drawn("in_the_set", "Is the first item among the others?", labels=("yes", "no"))
def _(rng: random.Random) -> Pair:
    words, answer = rng.sample(ANIMALS, 4), rng.choice(("yes", "no"))
    wanted = words[0] if answer == "yes" else rng.choice([word for word in ANIMALS if word not in words])
    rng.shuffle(words)
    return f"{wanted} in {{{', '.join(words)}}}", answer


@LOGIC.drawn("truth_value", "Evaluate the logical expression.", labels=("true", "false"))
def _(rng: random.Random) -> Pair:
    (first, a), (second, b), (third, c) = (_literal(rng) for _ in range(3))
    if rng.random() < 0.5:
        return f"({first} and {second}) or {third}", str((a and b) or c).lower()
    return f"({first} or {second}) and {third}", str((a or b) and c).lower()


def _literal(rng: random.Random) -> tuple[str, bool]:
    """A truth value, perhaps negated, as it is written and what it is."""
    value, negated = rng.random() < 0.5, rng.random() < 0.5
    return f"{'not ' if negated else ''}{str(value).lower()}", value != negated


@LOGIC.drawn("tallest_of_three", "Who is the tallest?")
def _(rng: random.Random) -> Pair:
    first, second, third = rng.sample(FIRST_NAMES, 3)
    facts = [f"{first} is taller than {second}.", f"{second} is taller than {third}."]
    rng.shuffle(facts)
    return " ".join(facts), first


@LOGIC.drawn("common_element", "Which letter do the two sets share?")
def _(rng: random.Random) -> Pair:
    shared, a, b, c, d = rng.sample("ABCDEFGHJKLMNPRSTUVWXYZ", 5)
    left, right = [shared, a, b], [shared, c, d]
    rng.shuffle(left)
    rng.shuffle(right)
    return f"{{{' '.join(left)}}} {{{' '.join(right)}}}", shared


@LOGIC.drawn("rule_and_case", "Does it follow from the rule? Reply yes, no or unknown.", labels=("yes", "no", "unknown"))
def _(rng: random.Random) -> Pair:
    job, place, name = rng.choice(JOBS), rng.choice(CATEGORIES["building"]), rng.choice(FIRST_NAMES)
    rule, case, answer = rng.choice((("All", "", "yes"), ("No", "", "no"), ("All", "not ", "unknown")))
    case += "an" if job[0] in "aeiou" else "a"
    return f"{rule} {job}s like the {place}. {name} is {case} {job}. Does {name} like it?", answer
