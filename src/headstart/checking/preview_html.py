"""The preview as one page, which asks for nothing from outside: light and dark, without scripts."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from headstart.checking.preview import PackedRow, Piece, Preview, branch_name, count, one_line, spelled
from headstart.checking.preview_console import colour

PICTURE = 560
"""Pixels that the picture of a row is made to fit where whole pixels a token allow it."""
Rectangle = tuple[int, int, int, int]
"""Left, top, width and height, in tokens."""


def preview_html(previews: Sequence[Preview], title: str) -> str:
    """A page with a section for each preview.

    Args:
        previews: what to show.
        title: of the page.
    """
    # everything that a task says goes through autoescape
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    helpers = {"count": count, "spelled": spelled, "tip": _tip, "name": branch_name, "colour": colour}
    return page.render(previews=previews, title=one_line(title), style=_STYLE, picture=_picture, **helpers)


def _tip(piece: Piece) -> str:
    last = piece.position + len(piece.ids) - 1
    if last == piece.position:
        return f"{piece.kind}, position {last}, id {piece.ids[0]}"
    return f"{piece.kind}, positions {piece.position} to {last}, ids {', '.join(map(str, piece.ids))}"


def _picture(row: PackedRow) -> dict[str, object]:
    """The row as the template draws it: sizes in tokens, and a path for each branch, and for the trained tokens on both edges."""
    edge = max(2, row.tokens // 50)
    rectangles = list(_rectangles(row.colours))
    areas = [(branch, _path(box for code, box in rectangles if code == branch + 2)) for branch in row.sizes]
    marks = [(x, -edge, width, edge) for _, (x, _, width, _) in _rectangles(row.trained[None].astype(int))]
    trained = _path([*marks, *((y, x, height, width) for x, y, width, height in marks)])
    side = row.tokens + edge
    return {"edge": edge, "side": side, "pixels": side * max(1, PICTURE // side), "areas": areas, "trained": trained}


def _rectangles(codes: NDArray[np.int64]) -> Iterator[tuple[int, Rectangle]]:
    """The filled cells as runs along a row, runs that go on in the next row being one rectangle."""
    growing: dict[tuple[int, int, int], int] = {}
    for y, line in enumerate([*codes, np.zeros_like(codes[0])]):
        runs = set(_runs(line))
        for run in growing.keys() - runs:
            code, x, width = run
            top = growing.pop(run)
            yield code, (x, top, width, y - top)
        growing |= dict.fromkeys(runs - growing.keys(), y)


def _runs(line: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Code, start and length of the runs of one code other than 0."""
    starts = np.flatnonzero(np.diff(line, prepend=0))
    for start, stop in pairwise([*starts, len(line)]):
        if line[start]:
            yield int(line[start]), int(start), int(stop - start)


def _path(boxes: Iterable[Rectangle]) -> str:
    return "".join(f"M{x} {y}h{width}v{height}h{-width}z" for x, y, width, height in boxes)


_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2330; --dim: #566072; --line: #dfe3ea; --plane: #f3f5f8; --mark: #14833b;
  --template: #566072; --template-a: #f3f4f7; --template-b: #e8ebf0; --prompt: #10182b; --prompt-a: #e9f1ff; --prompt-b: #d5e4fc;
  --trained: #05301a; --trained-a: #c8f1d4; --trained-b: #a3e4b7; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #11141a; --ink: #e7eaf1; --dim: #9ba7ba; --line: #2b323e; --plane: #1a1f28; --mark: #3ecf74;
  --template: #9ba7ba; --template-a: #1b2029; --template-b: #252c37; --prompt: #eaf0fc; --prompt-a: #21304b; --prompt-b: #2c4063;
  --trained: #dcfbe6; --trained-a: #14512c; --trained-b: #1c6b3b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .75rem; } h2 { font-size: 1.25rem; margin: 0; } h3 { font-size: 1rem; margin: 1.75rem 0 .25rem; }
h1, h2 { overflow-wrap: anywhere; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
p { margin: .25rem 0 .75rem; max-width: 46rem; } .dim, summary, figcaption { color: var(--dim); }
p.counts::first-letter { text-transform: uppercase; }
.part { display: grid; grid-template-columns: 6rem minmax(0, 1fr); gap: .75rem; padding: .3rem 0; }
.part > :first-child { text-align: right; color: var(--dim); font-size: .85rem; line-height: 1.75rem; }
.part > :last-child { border-left: 3px solid var(--line); padding-left: .75rem; }
.trained > :last-child { border-color: var(--mark); } .trained > :first-child { color: var(--mark); font-weight: 600; }
summary { cursor: pointer; font-size: .9rem; line-height: 1.75rem; }
.tokens, .sample { font: .875rem/1.75rem ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
.tokens > span, .sample { padding: .2em 0; border-radius: 3px; } .sample { padding: .2em .5em; }
.k-template { color: var(--template); background: var(--template-a); } .k-template:nth-child(even) { background: var(--template-b); }
.k-prompt { color: var(--prompt); background: var(--prompt-a); } .k-prompt:nth-child(even) { background: var(--prompt-b); }
.k-trained { color: var(--trained); background: var(--trained-a); font-weight: 600; }
.k-trained:nth-child(even) { background: var(--trained-b); }
.tokens > span:hover { outline: 1px solid currentColor; }
.end::before { content: "\\21B5"; opacity: .65; font-style: normal; } .escape { font-weight: inherit; text-decoration: underline dotted; }
figure { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0 0; align-items: flex-start; }
.plane { fill: var(--plane); } .marks { fill: var(--mark); }
svg.row { max-width: 100%; height: auto; display: block; shape-rendering: crispEdges; }
figcaption { flex: 1 1 14rem; font-size: .9rem; } ul { list-style: none; margin: 0 0 1rem; padding: 0; } li { color: var(--ink); }
.swatch { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .5rem; vertical-align: -.05rem; }
"""

_PAGE = """\
{% macro tokens(pieces) -%}
<div class="tokens">
{%- for piece in pieces -%}
<span class="k-{{ piece.kind }}" title="{{ tip(piece) }}">
{%- for run, stands_in in spelled(piece.text) -%}
{%- if not stands_in -%}
{{ run }}
{%- elif run.endswith("\\n") -%}
<i class="end"></i>{{ "\\n" }}
{%- else -%}
<b class="escape">{{ run }}</b>
{%- endif -%}
{%- endfor -%}
</span>
{%- endfor -%}
</div>
{%- endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p><span class="sample k-template">chat template and special tokens</span> <span class="sample k-prompt">instruction and input</span>
<span class="sample k-trained">trained</span></p>
<p class="dim">Shades take turns token by token; ↵ is a line end, other invisible characters are spelled out. A token's position and id
show where the pointer rests on it.</p>
{% for preview in previews %}
<section>
<h2>{{ preview.heading }}</h2>
{% for example in preview.examples %}
{% set number = loop.index %}
<h3>Example {{ number }}</h3>
<p class="dim">{{ example.summary }}.</p>
{% for part, pieces in example.segments %}
<div class="part {{ part }}"><div>{{ part }} {{ count(pieces) }}</div><div>
{% if part == "shared" and number > 1 %}
<details><summary>the same as in example 1</summary>{{ tokens(pieces) }}</details>
{% else %}
{{ tokens(pieces) }}
{% endif %}
</div></div>
{% endfor %}
{% endfor %}
{% set drawn = picture(preview.row) %}
<h3>What sees what</h3>
<p class="dim counts">{{ preview.summary }}.</p>
<figure>
<svg class="row" role="img" width="{{ drawn.pixels }}" height="{{ drawn.pixels }}" \
viewBox="{{ -drawn.edge }} {{ -drawn.edge }} {{ drawn.side }} {{ drawn.side }}">
<title>{{ preview.summary }}</title>
<rect class="plane" width="{{ preview.row.tokens }}" height="{{ preview.row.tokens }}"/>
{% for branch, path in drawn.areas %}
<path fill="{{ colour(branch) }}" d="{{ path }}"><title>tokens of {{ name(branch) }}, where they are seen</title></path>
{% endfor %}
<path class="marks" d="{{ drawn.trained }}"><title>trained tokens</title></path>
</svg>
<figcaption>
<ul>
{% for branch, size in preview.row.sizes.items() %}
<li><span class="swatch" style="background: {{ colour(branch) }}"></span>{{ name(branch) }}: {{ size }} tokens</li>
{% endfor %}
<li><span class="swatch" style="background: var(--mark)"></span>trained, on the edges</li>
</ul>
Down: the tokens that look. Across: the tokens that they see.
</figcaption>
</figure>
</section>
{% endfor %}
</main>
</body>
</html>
"""
