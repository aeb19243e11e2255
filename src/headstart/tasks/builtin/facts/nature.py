"""Animals, their classes and what is said of them, and the chemical elements in order of atomic number."""

CLASS_MEMBERS: dict[str, list[str]] = {
    "mammal": """
        whale dolphin bat seal walrus elephant tiger wolf rabbit horse moose beaver hamster sloth koala hyena cheetah lynx jaguar
        buffalo bison antelope porcupine armadillo mole rhinoceros weasel otter squirrel
    """.split(),
    "bird": """
        eagle owl robin penguin ostrich emu kiwi albatross canary kingfisher toucan hummingbird swallow pheasant quail cockatoo condor
        ibis crane partridge wren thrush jay lark swift osprey kestrel
    """.split(),
    "fish": """
        salmon tuna shark eel cod perch pike halibut bass marlin grouper snapper sole turbot plaice herring guppy clownfish seahorse
        piranha stickleback lamprey pufferfish sunfish whiting bream pollock
    """.split(),
    "reptile": """
        snake lizard crocodile tortoise gecko iguana chameleon cobra python viper rattlesnake anaconda alligator turtle caiman skink
        terrapin gharial adder mamba boa copperhead
    """.split(),
    "insect": """
        ant bee wasp beetle butterfly moth mosquito grasshopper dragonfly ladybird cockroach termite flea locust aphid earwig firefly
        mayfly gnat weevil housefly silverfish cicada katydid lacewing horsefly
    """.split(),
}


def _facts(text: str) -> dict[str, str]:
    return dict(pair.split() for pair in text.split(","))


YOUNG: dict[str, str] = _facts(
    """dog puppy,cat kitten,cow calf,sheep lamb,goat kid,pig piglet,horse foal,deer fawn,lion cub,kangaroo joey,duck duckling,
    goose gosling,swan cygnet,hen chick,frog tadpole,eagle eaglet,owl owlet,spider spiderling,butterfly caterpillar,seal pup,
    elephant calf,bear cub,whale calf,wolf pup,hare leveret,koala joey"""
)
# Sentences about an animal that one word completes.
SAYINGS: dict[str, dict[str, str]] = {
    "The word for the young of the {} is": YOUNG,
    "The {}": _facts(
        """dog barks,cat meows,cow moos,sheep bleats,pig oinks,horse neighs,lion roars,duck quacks,wolf howls,frog croaks,owl hoots,
        snake hisses,bee buzzes,donkey brays,elephant trumpets,turkey gobbles,crow caws,rooster crows,mouse squeaks,pigeon coos,
        hen clucks"""
    ),
    "The {} lives in a": _facts(
        """bee hive,bird nest,spider web,rabbit burrow,bear den,horse stable,pig sty,dog kennel,beaver lodge,hen coop,badger sett,
        otter holt,squirrel drey"""
    ),
    "Many {} together are a": _facts(
        "wolves pack,lions pride,bees swarm,cows herd,geese gaggle,ants colony,elephants herd,whales pod,birds flock,sheep flock"
    ),
    "A female {} is called a": _facts("horse mare,deer doe,sheep ewe,fox vixen,lion lioness,tiger tigress,pig sow,peafowl peahen"),
    "A male {} is called a": _facts("horse stallion,sheep ram,duck drake,goose gander,pig boar,swan cob,elephant bull,peafowl peacock"),
    "The meat of a {} is": _facts("pig pork,cow beef,deer venison,calf veal"),
    "Like a {} means": _facts("cat feline,dog canine,horse equine,cow bovine"),
    "A {} is covered with": _facts("bird feathers,fish scales,sheep wool,hedgehog spines,bear fur"),
}
LEGS: dict[str, int] = {
    "spiders": 8,
    "ants": 6,
    "dogs": 4,
    "hens": 2,
    "beetles": 6,
    "cows": 4,
    "snakes": 0,
    "ducks": 2,
    "bees": 6,
    "frogs": 4,
}

ELEMENTS: list[tuple[str, str]] = [
    (name, symbol)
    for name, symbol in (
        entry.split()
        for entry in [
            "hydrogen H",
            "helium He",
            "lithium Li",
            "beryllium Be",
            "boron B",
            "carbon C",
            "nitrogen N",
            "oxygen O",
            "fluorine F",
            "neon Ne",
            "sodium Na",
            "\n        magnesium Mg",
            "aluminium Al",
            "silicon Si",
            "phosphorus P",
            "sulfur S",
            "chlorine Cl",
            "argon Ar",
            "potassium K",
            "calcium Ca",
            "scandium Sc",
            "titanium Ti",
            "\n        vanadium V",
            "chromium Cr",
            "manganese Mn",
            "iron Fe",
            "cobalt Co",
            "nickel Ni",
            "copper Cu",
            "zinc Zn",
            "gallium Ga",
            "germanium Ge",
            "arsenic As",
            "\n        selenium Se",
            "bromine Br",
            "krypton Kr",
            "rubidium Rb",
            "strontium Sr",
            "yttrium Y",
            "zirconium Zr",
            "niobium Nb",
            "molybdenum Mo",
            "technetium Tc",
            "\n        ruthenium Ru",
            "rhodium Rh",
            "palladium Pd",
            "silver Ag",
            "cadmium Cd",
            "indium In",
            "tin Sn",
            "antimony Sb",
            "tellurium Te",
            "iodine I",
            "xenon Xe",
            "\n        caesium Cs",
            "barium Ba",
            "lanthanum La",
            "cerium Ce",
            "praseodymium Pr",
            "neodymium Nd",
            "promethium Pm",
            "samarium Sm",
            "europium Eu",
            "gadolinium Gd",
            "\n        terbium Tb",
            "dysprosium Dy",
            "holmium Ho",
            "erbium Er",
            "thulium Tm",
            "ytterbium Yb",
            "lutetium Lu",
            "hafnium Hf",
            "tantalum Ta",
            "tungsten W",
            "\n        rhenium Re",
            "osmium Os",
            "iridium Ir",
            "platinum Pt",
            "gold Au",
            "mercury Hg",
            "thallium Tl",
            "lead Pb",
            "bismuth Bi",
            "polonium Po",
            "astatine At",
            "radon Rn",
            "\n        francium Fr",
            "radium Ra",
            "actinium Ac",
            "thorium Th",
            "protactinium Pa",
            "uranium U",
            "neptunium Np",
            "plutonium Pu",
            "americium Am",
            "curium Cm",
            "\n        berkelium Bk",
            "californium Cf",
            "einsteinium Es",
            "fermium Fm",
            "mendelevium Md",
            "nobelium No",
            "lawrencium Lr",
            "rutherfordium Rf",
            "dubnium Db",
            "\n        seaborgium Sg",
            "bohrium Bh",
            "hassium Hs",
            "meitnerium Mt",
            "darmstadtium Ds",
            "roentgenium Rg",
            "copernicium Cn",
            "nihonium Nh",
            "flerovium Fl",
            "\n        moscovium Mc",
            "livermorium Lv",
            "tennessine Ts",
            "oganesson Og",
        ]
    )
]
