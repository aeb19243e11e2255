"""Reading YAML by the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3), strictly.

PyYAML reads YAML 1.1: there `no` is false, `3e-4` is text, `010` is eight, `1:30` is ninety and a day is a date. Here only
`true` and `false` are truth values, numbers are what they look like, everything else is text, and a key stands once in a mapping.
"""

import json
import math
import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_KINDS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's resolution of plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own, emptied

    def read_int(self, node: yaml.ScalarNode) -> int:
        """Decimal whatever it begins with, or `0o` octal, or `0x` hexadecimal."""
        text: str = node.value
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    def read_mapping(self, node: yaml.MappingNode) -> Any:
        """A mapping in which no key is written twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a plain word", key.start_mark)
            if key.value in lines:
                raise ConstructorError(None, None, f"the key {key.value!r} stands twice, first in line {lines[key.value]}", key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return self.construct_yaml_map(node)


for _kind, (_pattern, _first) in _KINDS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.read_int)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.read_mapping)


def read_yaml(text: str) -> Any:
    """The value that a YAML text holds, as JSON has it: mappings, lists, text, numbers, truth values and null.

    Aliases become copies, so that changing one place changes no other.

    Raises:
        ValueError: it is malformed, has a key twice, or holds what JSON has not; the message gives the line where there is one.
    """
    try:
        return json.loads(json.dumps(yaml.load(text, Loader=_Loader)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{f'line {mark.line + 1}: ' if mark else ''}{error.problem}") from error
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def show(value: Any) -> str:
    """A value as one would write it in YAML: `true`, `null`, text in quotes."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
