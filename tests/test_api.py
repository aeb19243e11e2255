"""The public names with their signatures, and the command line, are what `api.txt` says; nothing changes there by accident.

`python tests/test_api.py` writes the file anew.
"""

import inspect
from pathlib import Path

import typer.main

import headstart
from headstart.cli import app

PINNED = Path(__file__).with_name("api.txt")


def described_names():
    for name in sorted(headstart.__all__):
        thing = getattr(headstart, name)
        yield f"headstart.{name}{described_signature(thing)}"
        if inspect.isclass(thing) and thing.__module__.startswith("headstart"):
            own = {
                name: value
                for kind in reversed(thing.__mro__)
                if kind.__module__.startswith("headstart")
                for name, value in vars(kind).items()
            }
            for member, value in sorted(own.items()):
                if not member.startswith("_") and callable(getattr(thing, member)) and not inspect.isclass(value):
                    yield f"headstart.{name}.{member}{described_signature(getattr(thing, member))}"


def described_signature(thing):
    """Names, kinds and defaults; annotations may be worded otherwise without a caller noticing."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return "(message)"
    signature = inspect.signature(thing)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    bare = [one if short(one.default) else one.replace(default=...) for one in bare]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def short(default):
    return default is inspect.Parameter.empty or isinstance(default, str | int | float | tuple | None)


def described_commands():
    for name, command in sorted(typer.main.get_command(app).commands.items()):
        yield f"headstart {name} {' '.join('|'.join(parameter.opts) for parameter in command.params)}".rstrip()


def described():
    return "\n".join([*described_names(), *described_commands()]) + "\n"


def test_the_public_interface_is_as_pinned():
    assert described() == PINNED.read_text(encoding="utf-8"), (
        "the public interface changed. If that is meant, run `.venv/bin/python tests/test_api.py` and say so in CHANGELOG.md"
    )


if __name__ == "__main__":
    PINNED.write_text(described(), encoding="utf-8")
