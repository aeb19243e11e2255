"""English verbs: irregular ones with past and participle, regular ones with the rules for their forms."""

_IRREGULAR = """be was been; begin began begun; bite bit bitten; blow blew blown; break broke broken; bring brought brought;
    build built built; buy bought bought; catch caught caught; choose chose chosen; come came come; cut cut cut; dig dug dug;
    do did done; draw drew drawn; drink drank drunk; drive drove driven; eat ate eaten; fall fell fallen; feed fed fed;
    feel felt felt; fight fought fought; find found found; flee fled fled; fly flew flown; forbid forbade forbidden;
    forget forgot forgotten; forgive forgave forgiven; freeze froze frozen; give gave given; go went gone; grow grew grown;
    have had had; hear heard heard; hide hid hidden; hit hit hit; hold held held; hurt hurt hurt; keep kept kept;
    know knew known; lay laid laid; lead led led; leave left left; lend lent lent; let let let; lose lost lost; make made made;
    mean meant meant; meet met met; pay paid paid; put put put; ride rode ridden; ring rang rung; rise rose risen; run ran run;
    say said said; see saw seen; seek sought sought; sell sold sold; send sent sent; set set set; shake shook shaken;
    shoot shot shot; shut shut shut; sing sang sung; sink sank sunk; sit sat sat; sleep slept slept; slide slid slid;
    speak spoke spoken; spend spent spent; split split split; spread spread spread; stand stood stood; steal stole stolen;
    stick stuck stuck; sting stung stung; strike struck struck; swear swore sworn; sweep swept swept; swim swam swum;
    swing swung swung; take took taken; teach taught taught; tear tore torn; tell told told; think thought thought;
    throw threw thrown; understand understood understood; wake woke woken; wear wore worn; win won won; write wrote written;
    bend bent bent; bleed bled bled; breed bred bred; creep crept crept; cling clung clung; deal dealt dealt;
    overcome overcame overcome; become became become; rebuild rebuilt rebuilt; mistake mistook mistaken;
    withdraw withdrew withdrawn; undo undid undone; bind bound bound; grind ground ground; wind wound wound;
    sling slung slung; spin spun spun; string strung strung; tread trod trodden; uphold upheld upheld;
    foresee foresaw foreseen; overtake overtook overtaken; rewrite rewrote rewritten; misunderstand misunderstood misunderstood"""

IRREGULAR: list[tuple[str, str, str]] = [
    (base, past, participle) for base, past, participle in (entry.split() for entry in _IRREGULAR.split(";"))
]

REGULAR: list[str] = """
    accept add agree allow apologise arrive ask attack avoid bake bark beg behave believe boil borrow breathe brush call carry
    celebrate change chase chat check chop clap clean climb close collect complain cook copy cough count cover cross cry dance decide
    defend deliver describe destroy disagree discover drag dress drop dry earn enjoy enter escape explain explore fill finish fix fold
    follow fry glue grab greet guess hammer hate help hope hug hurry imagine improve invite jog join juggle jump kick kiss knock laugh
    learn lick lift like listen live look love marry measure melt mix move nod open order paint pass pat plan plant play pour practise
    pray prepare press prevent promise protect pull push race reach relax remember repair rescue rob sail save scream shop shout skip
    slip smile smoke sneeze stare stop study tap taste tidy touch travel trip try type use visit wait walk wander want warn wash watch
    whisper whistle wish work worry wrap yawn
""".split()
_DOUBLING = frozenset(
    """
        beg chat chop clap drag drop grab hug jog nod pat plan rob shop skip slip stop tap travel trip wrap
    """.split()
)


def third_person(verb: str) -> str:
    """The form after he or she: walks, washes, carries."""
    irregular = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    if verb in irregular:
        return irregular[verb]
    if _ends_in_consonant_y(verb):
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z")) else "s")


def gerund(verb: str) -> str:
    """The -ing form of a regular verb: walking, baking, stopping."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return _doubled(verb) + "ing"


def past(verb: str) -> str:
    """The past of a regular verb: walked, baked, stopped, carried."""
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if _ends_in_consonant_y(verb) else _doubled(verb) + "ed"


def _doubled(verb: str) -> str:
    return verb + verb[-1] if verb in _DOUBLING else verb


def _ends_in_consonant_y(verb: str) -> bool:
    return verb.endswith("y") and verb[-2] not in "aeiou"
