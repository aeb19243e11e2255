"""Plurals, comparatives, agent nouns and nouns of quality, grouped by how they are formed."""


def _swap(words: str, cut: int, ending: str) -> list[tuple[str, str]]:
    return [(word, word[: len(word) - cut] + ending) for word in words.split()]


def _double(words: str, ending: str) -> list[tuple[str, str]]:
    return [(word, word + word[-1] + ending) for word in words.split()]


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(first, second) for first, second in (pair.split() for pair in text.split(","))]


PLURALS: list[tuple[str, str]] = [
    *_swap(
        "box fox church bench watch bus glass class dish brush wish tax match lunch branch inch kiss boss tomato potato hero echo", 0, "es"
    ),
    *_swap("baby city party story lady country army berry cherry family body copy fly puppy penny enemy diary factory duty spy", 1, "ies"),
    *_swap("leaf half wolf thief loaf calf shelf self elf", 1, "ves"),
    *_swap("knife wife life", 2, "ves"),
    *_swap("roof chief belief cliff giraffe toy day key monkey boy donkey valley journey piano photo radio studio video zoo kilo", 0, "s"),
    *_swap("cat table road song lamp idea chair window garden letter tree river bridge cloud engine island apple eye spoon minute", 0, "s"),
    *_pairs(
        "child children,man men,woman women,foot feet,tooth teeth,goose geese,mouse mice,ox oxen,louse lice,sheep sheep,deer deer,"
        "series series,species species,crisis crises,basis bases,analysis analyses,thesis theses,oasis oases,phenomenon phenomena,"
        "criterion criteria,policeman policemen,fireman firemen,salmon salmon,aircraft aircraft,passer-by passers-by,bacterium bacteria,"
        "grandchild grandchildren,snowman snowmen,hypothesis hypotheses,diagnosis diagnoses,stimulus stimuli,alumnus alumni"
    ),
]

COMPARATIVES: list[tuple[str, str]] = [
    *_swap("tall small old young short long fast slow warm cold cool hard soft deep high low rich poor weak strong clean cheap", 0, "er"),
    *_swap("bright dark dull sharp smooth rough thick light quick loud quiet kind mild fresh sweet sour bold calm neat plain", 0, "er"),
    *_swap("large nice late safe wide close wise brave rude pale ripe rare strange fine simple gentle cute loose", 0, "r"),
    *_swap("happy easy busy heavy funny pretty lucky dirty noisy angry early lazy hungry tiny ugly silly windy cloudy crazy", 1, "ier"),
    *_double("big hot thin fat wet sad red flat slim dim fit", "er"),
    *_pairs("good better,bad worse"),
    *[
        (word, f"more {word}")
        for word in """
            modern careful useful famous expensive beautiful difficult dangerous interesting important comfortable popular
        """.split()
    ],
]

AGENTS: list[tuple[str, str]] = [
    *_swap("teach paint sing farm build clean hunt sell think work print read climb hike walk learn lead speak", 0, "er"),
    *_swap("bake drive write dance ride make manage trade explore dive skate smoke lose rule produce vote use admire", 1, "er"),
    *_double("run swim win shop jog rob drum plan", "er"),
    *_swap("juggle gamble wrestle believe consume organise", 1, "er"),
    *_swap("fight design employ golf surf buy preach camp", 0, "er"),
    *_swap("act direct edit visit invent instruct sail collect protect audit inspect conduct sculpt", 0, "or"),
    *_swap("create translate investigate narrate decorate navigate educate operate illustrate moderate imitate", 1, "or"),
    *_pairs("govern governor,survive survivor,supervise supervisor,compete competitor,lie liar,beg beggar,carry carrier"),
    *_swap("listen train play help box report own garden kick catch pitch bowl wait research perform follow publish", 0, "er"),
]

QUALITIES: list[tuple[str, str]] = [
    *_swap("kind dark sad ill weak soft fair polite rude bright calm cold sick good mad sweet thick fit blind deaf aware great", 0, "ness"),
    *_swap("useful careless hopeless loud fresh bitter clever tired cool close rough smooth thin damp dull fond", 0, "ness"),
    *_swap("happy lazy lonely busy empty tidy ready friendly silly clumsy heavy ugly holy naughty", 1, "iness"),
    *_swap("real equal formal popular similar regular familiar human moral legal final humid", 0, "ity"),
    *_swap("pure active sane secure rare sensitive creative obscure mature scarce dense diverse", 1, "ity"),
    *_pairs(
        "able ability,possible possibility,flexible flexibility,responsible responsibility,curious curiosity,generous generosity,"
        "strong strength,long length,wide width,deep depth,true truth,warm warmth,young youth,free freedom,wise wisdom,brave bravery,"
        "honest honesty,difficult difficulty,poor poverty,angry anger,proud pride,hungry hunger,thirsty thirst,high height,"
        "beautiful beauty,patient patience,silent silence,absent absence,present presence,important importance,distant distance,"
        "innocent innocence,violent violence,confident confidence,elegant elegance,ignorant ignorance,private privacy,accurate accuracy,"
        "urgent urgency,fluent fluency,loyal loyalty,cruel cruelty,safe safety,jealous jealousy,simple simplicity"
    ),
]
