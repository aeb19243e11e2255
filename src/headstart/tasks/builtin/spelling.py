"""Letters of words: plain questions about spelling, hidden rewriting rules, ciphers."""

import random
from string import ascii_lowercase as LETTERS

from headstart.tasks.builtin.facts.nouns import NOUNS, OTHERS
from headstart.tasks.builtin.facts.verbs import REGULAR
from headstart.tasks.builtin.registry import Cluster, Pair

SPELLING = Cluster("spelling")
LETTER_RULES = Cluster("letter_rules")
CIPHERS = Cluster("ciphers")
CLUSTERS = (SPELLING, LETTER_RULES, CIPHERS)

VOWELS = "aeiou"
PLACES = ("first", "second", "third", "fourth")
ALL = list(dict.fromkeys(NOUNS + OTHERS + REGULAR))
SHORT = [word for word in ALL if len(word) <= 5]


def part(index: int, words: list[str] = ALL, of: int = 6) -> list[str]:
    """One of several disjoint shares of a word list, so that tasks on single words share no inputs."""
    return words[index::of]


def shift(word: str, by: int) -> str:
    """Every letter moved along the alphabet, z followed by a."""
    return "".join(LETTERS[(LETTERS.index(letter) + by) % 26] for letter in word)


@SPELLING.drawn("reverse_word", "Spell this word backwards.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(part(0))
    return word, word[::-1]


@SPELLING.drawn("letter_at_place", "Which letter is asked for?")
def _(rng: random.Random) -> Pair:
    word = rng.choice(ALL)
    place = rng.randrange(min(len(word), len(PLACES)))
    return f"{PLACES[place]} letter of {word}", word[place]


@SPELLING.drawn("first_letters", "Take the first letter of every word and join them.")
def _(rng: random.Random) -> Pair:
    words = rng.sample(ALL, rng.randint(3, 4))
    return " ".join(words), "".join(word[0] for word in words)


@SPELLING.drawn("count_vowels", "How many vowels (a, e, i, o, u) do these two words have together?")
def _(rng: random.Random) -> Pair:
    text = " ".join(rng.sample(ALL, 2))
    return text, str(sum(letter in VOWELS for letter in text))


@SPELLING.drawn("spell_out", "Spell the word in capitals with a hyphen between letters.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(part(1))
    return word, "-".join(word.upper())


@LETTER_RULES.drawn("star_the_vowels", "Mask the word as in the examples.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(part(2))
    return word, "".join("*" if letter in VOWELS else letter for letter in word)


@LETTER_RULES.drawn("swap_the_ends", "Rewrite this word by the house rule.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(part(3))
    return word, word[-1] + word[1:-1] + word[0]


@LETTER_RULES.drawn("halves_crossed", "Combine the two words.")
def _(rng: random.Random) -> Pair:
    first, second = rng.sample(SHORT, 2)
    return f"{first} + {second}", first[:2] + second[-2:]


@LETTER_RULES.drawn("first_letter_moved", "Apply the usual change to the word below.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(part(4))
    return word, f"{word[1:]}-{word[0]}"


@LETTER_RULES.drawn("length_tag", "Attach the tag that belongs to the pair of words.")
def _(rng: random.Random) -> Pair:
    words = rng.sample(ALL, 2)
    return ", ".join(words), "".join(f"{word[0]}{len(word)}" for word in words)


@CIPHERS.drawn("shift_forward", "Encode by replacing each letter with the next one in the alphabet.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(SHORT)
    return word.upper(), shift(word, 1).upper()


@CIPHERS.drawn("shift_back", "Decode: each letter was moved one place forward in the alphabet.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(SHORT)
    return shift(word, 1), word


@CIPHERS.drawn("letter_numbers", "Replace the letters by their places in the alphabet, a = 1.")
def _(rng: random.Random) -> Pair:
    letters = rng.sample(LETTERS, 3)
    return " ".join(letters), " ".join(str(LETTERS.index(letter) + 1) for letter in letters)


@CIPHERS.drawn("secret_vowels", "Decipher the message.")
def _(rng: random.Random) -> Pair:
    text = " ".join(rng.sample(ALL, 2))
    return text.translate(str.maketrans(VOWELS, "12345")), text


@CIPHERS.drawn("syllable_language", "Say it in the secret language.")
def _(rng: random.Random) -> Pair:
    word = rng.choice(part(5))
    return word, "".join(f"{letter}p{letter}" if letter in VOWELS else letter for letter in word)
