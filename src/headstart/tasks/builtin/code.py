"""Rewriting names, data, paths and queries as a programmer does."""

import json
import random

from headstart.tasks.builtin.facts.nouns import OTHERS
from headstart.tasks.builtin.facts.people import FIRST_NAMES
from headstart.tasks.builtin.facts.verbs import REGULAR
from headstart.tasks.builtin.registry import Cluster, Pair

IDENTIFIERS = Cluster("identifiers")
DATA = Cluster("data_and_queries")
PATHS = Cluster("paths")
CLUSTERS = (IDENTIFIERS, DATA, PATHS)

WORDS = [word for word in OTHERS if len(word) <= 7]
ACTIONS = ["add", "get", "set", "find", "load", "save", "send", "read", "copy", "move"]
FIELDS = ["age", "size", "price", "weight", "height", "score", "level", "year"]
TABLES = ["users", "orders", "books", "items", "cities", "movies"]
DOMAINS = ["example.com", "mail.org", "shop.net", "news.info", "school.edu", "museum.org"]
FILE_KINDS = {
    "image": ("png", "jpg", "gif", "bmp"),
    "audio": ("mp3", "wav", "flac", "ogg"),
    "text": ("txt", "md", "docx", "odt"),
    "code": ("py", "js", "java", "cpp"),
}
EXTENSIONS = [extension for extensions in FILE_KINDS.values() for extension in extensions]


@IDENTIFIERS.drawn("snake_to_camel", "Change snake_case to camelCase.")
def _(rng: random.Random) -> Pair:
    action, first, second = rng.choice(ACTIONS), *rng.sample(WORDS, 2)
    return f"{action}_{first}_{second}", f"{action}{first.title()}{second.title()}"


@IDENTIFIERS.drawn("camel_to_kebab", "Use kebab-case instead.")
def _(rng: random.Random) -> Pair:
    first, second = rng.sample(WORDS, 2)
    return f"{first}{second.title()}", f"{first}-{second}"


@IDENTIFIERS.drawn("words_to_constant", "Make a constant name of these words.")
def _(rng: random.Random) -> Pair:
    words = ["max", *rng.sample(WORDS, 2)]
    return " ".join(words), "_".join(words).upper()


@IDENTIFIERS.drawn("getter_name", "How is the method for this field called in our code base?")
def _(rng: random.Random) -> Pair:
    first, second = rng.sample(WORDS, 2)
    return f"{first}_{second}", f"fetch{first.title()}{second.title()}()"


@IDENTIFIERS.drawn("naming_style", "Recognise the naming style.", labels=("snake", "camel", "kebab", "constant"))
def _(rng: random.Random) -> Pair:
    (first, second), verb = rng.sample(WORDS, 2), rng.choice(REGULAR)
    style = rng.choice(("snake", "camel", "kebab", "constant"))
    written = {
        "snake": f"{verb}_{first}_{second}",
        "camel": f"{verb}{first.title()}{second.title()}",
        "kebab": f"{verb}-{first}-{second}",
        "constant": f"{verb}_{first}_{second}".upper(),
    }
    return written[style], style


@DATA.drawn("pair_to_json", "Express as JSON.")
def _(rng: random.Random) -> Pair:
    field, number = rng.choice(FIELDS), rng.randint(1, 99)
    return f"{field}={number}", json.dumps({field: number})


@DATA.drawn("function_call", "Format as a function call.")
def _(rng: random.Random) -> Pair:
    action, a, b = rng.choice(ACTIONS), rng.randint(1, 50), rng.randint(1, 50)
    return f"{action} {a} {b}", f"{action}({a}, {b})"


@DATA.drawn("select_query", "Write the SQL query.")
def _(rng: random.Random) -> Pair:
    shown, tested = rng.sample(FIELDS, 2)
    table, sign, limit = rng.choice(TABLES), rng.choice(("over", "under")), rng.randint(1, 60)
    return (
        f"{shown} of {table} with {tested} {sign} {limit}",
        f"SELECT {shown} FROM {table} WHERE {tested} {'>' if sign == 'over' else '<'} {limit}",
    )


@DATA.drawn("csv_field", "Which value stands in the third column?")
def _(rng: random.Random) -> Pair:
    cells = [rng.choice(FIRST_NAMES), str(rng.randint(18, 80)), *rng.sample(WORDS, 2)]
    rng.shuffle(cells)
    return ",".join(cells), cells[2]


@DATA.drawn("value_at_key", "Look up the key after the arrow.")
def _(rng: random.Random) -> Pair:
    keys, values = rng.sample(FIELDS, 3), rng.sample(range(10, 99), 3)
    wanted = rng.randrange(3)
    return f"{', '.join(f'{key}: {value}' for key, value in zip(keys, values, strict=True))} -> {keys[wanted]}", str(values[wanted])


@PATHS.drawn("file_name", "Keep only the file name.")
def _(rng: random.Random) -> Pair:
    folder, inner, name = rng.sample(WORDS, 3)
    file = f"{name}.{rng.choice(EXTENSIONS)}"
    return f"/{folder}/{inner}/{file}", file


@PATHS.drawn("parent_folder", "In which folder is this file?")
def _(rng: random.Random) -> Pair:
    folder, inner, name = rng.sample(WORDS, 3)
    return f"{folder}/{inner}/{name}.txt", f"{folder}/{inner}"


@PATHS.drawn("backup_name", "Propose the name of the backup copy.")
def _(rng: random.Random) -> Pair:
    name, extension = rng.choice(WORDS), rng.choice(EXTENSIONS)
    return f"{name}.{extension}", f"{name}_old.{extension}.bak"


@PATHS.drawn("domain_of_url", "Extract the domain.")
def _(rng: random.Random) -> Pair:
    domain = f"{rng.choice(WORDS)}.{rng.choice(DOMAINS)}"
    return f"https://{domain}/{rng.choice(WORDS)}", domain


@PATHS.drawn("file_kind", "What kind of file is it?", labels=tuple(FILE_KINDS))
def _(rng: random.Random) -> Pair:
    kind = rng.choice(tuple(FILE_KINDS))
    return f"{rng.choice(WORDS)}{rng.randint(1, 9)}.{rng.choice(FILE_KINDS[kind])}", kind
