"""Tiny stand-ins for real things: a random Llama with its tokenizer, loaded by the real code, and a suite small enough to read."""

import string
import struct

import pytest
import torch
from rich.console import Console
from tiny import build_tokenizer, save_tiny_base

from headstart.batches import Batcher
from headstart.model.base import BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.episodes import Draw, training_episode
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, Task, TaskSuite


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A saved two-layer Llama with its tokenizer."""
    return save_tiny_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_spec(tiny_folder):
    """Builds the spec of the tiny base under a quantisation and type."""

    def build(quantization="none", dtype="float32"):
        return BaseSpec(id="test/tiny", source=str(tiny_folder), quantization=quantization, dtype=dtype)

    return build


@pytest.fixture(params=["none", "nf4"])
def base(request, tiny_spec):
    return load_base(tiny_spec(request.param), "cpu")


@pytest.fixture
def dense_base(tiny_spec):
    return load_base(tiny_spec(), "cpu")


@pytest.fixture
def learner(base):
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        yield learner


@pytest.fixture
def random_phi():
    """Builds adapters for T tasks, all different and with B away from zero."""

    def build(learner, tasks, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(tasks, *shape, generator=generator) * 0.1 for name, shape in learner.shapes().items()}

    return build


@pytest.fixture
def batcher():
    """Builds a batcher for a base."""

    def build(base, **options):
        return Batcher(Renderer(base.tokenizer), base.device, **options)

    return build


def words(count, offset):
    """Distinct short words."""
    letters = string.ascii_lowercase
    return [letters[(n + offset) % 26] + letters[(n * 7 + offset) % 26] + letters[n // 26] for n in range(count)]


def make_task(name, instruction, answer, cluster, offset, labels=()):
    return Task(name, instruction, tuple(Example(word, answer(word)) for word in words(24, offset)), cluster, labels)


@pytest.fixture
def toy_suite():
    tasks = [
        make_task("upper", "Shout.", str.upper, "case", 0),
        make_task("title", "First letter large.", str.title, "case", 1),
        make_task("reverse", "Turn the word around.", lambda word: word[::-1], "order", 2),
        make_task("sorted", "Sort.", lambda word: "".join(sorted(word)), "order", 3),
        make_task("vowel", "Does it begin with a vowel?", lambda word: "yes" if word[0] in "aeiou" else "no", "kind", 4, ("yes", "no")),
        make_task("twice", "Say it twice.", lambda word: f"{word} {word}", "copy", 5),
    ]
    splits = {"meta_train": ("upper", "title", "reverse", "sorted"), "meta_validation": ("vowel",), "meta_test": ("twice",)}
    return TaskSuite("toy", {task.name: task for task in tasks}, splits)


@pytest.fixture
def episode(toy_suite):
    """Three training tasks, four support and five query examples each."""
    return training_episode(toy_suite, seed=0, step=0, tasks=3, support=4, query=5)


@pytest.fixture
def labelled_draw(toy_suite):
    task = toy_suite.tasks["vowel"]
    return Draw(task, (task.examples[:4],), task.examples[4:12])


@pytest.fixture
def quiet():
    return Console(quiet=True)


@pytest.fixture
def png_size():
    """Reads the size of a whole PNG file."""

    def read(path):
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert content[-8:-4] == b"IEND"
        return struct.unpack(">II", content[16:24])

    return read


@pytest.fixture
def legend_names():
    """Reads the names in a figure's legends."""
    return lambda figure: [text.get_text() for legend in figure.legends for text in legend.get_texts()]
