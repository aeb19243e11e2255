"""Forms of words: inflection and derivation."""

from headstart.tasks.builtin.facts.verbs import IRREGULAR, REGULAR, gerund, past, third_person
from headstart.tasks.builtin.facts.word_forms import AGENTS, COMPARATIVES, PLURALS, QUALITIES
from headstart.tasks.builtin.registry import Cluster, joined

INFLECTION = Cluster("inflection")
DERIVATION = Cluster("derivation")
CLUSTERS = (INFLECTION, DERIVATION)

INFLECTION.table("plural_nouns", "Write the plural of this noun.", PLURALS)
INFLECTION.table("past_tense", "Put the verb into the past tense.", ((base, form) for base, form, _ in IRREGULAR))
INFLECTION.table("gerund_form", "What is the -ing form of this verb?", ((f"to {verb}", gerund(verb)) for verb in REGULAR))
INFLECTION.table(
    "past_participle",
    "Fill in the right form of the verb in brackets.",
    ((f"has already ({base})", participle) for base, _, participle in IRREGULAR),
)
INFLECTION.table(
    "verb_regularity",
    "Is this verb regular or irregular? Judge by its past tense.",
    joined(
        ((f"he {third_person(base)}", "irregular") for base, _, _ in IRREGULAR),
        ((f"he {third_person(verb)}", "regular") for verb in REGULAR),
    ),
    labels=("regular", "irregular"),
)

DERIVATION.table("comparative_form", "Give the comparative.", COMPARATIVES)
DERIVATION.table(
    "agent_noun",
    "Name the person described, with one word made from the verb.",
    ((f"one who {third_person(verb)}", agent) for verb, agent in AGENTS),
)
DERIVATION.table("quality_noun", "Turn the phrase into a single noun.", ((f"being {quality}", noun) for quality, noun in QUALITIES))
DERIVATION.table(
    "verb_behind_past",
    "Reduce the phrase to the dictionary form of its verb.",
    joined(((f"they {past(verb)}", verb) for verb in REGULAR), ((f"they {form}", base) for base, form, _ in IRREGULAR if base != "be")),
)
