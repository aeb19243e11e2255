"""Tiny stand-ins for real things: a random Llama with its tokenizer, loaded by the real code, and a suite small enough to read."""

import string
import struct

import pytest
import torch
from hub import point_client_at, serving
from rich.console import Console
from tiny import build_tokenizer, save_tiny_base
from transformers import AutoConfig, AutoModelForCausalLM

from headstart.batches import Batcher
from headstart.model.base import BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.episodes import Draw, training_episode
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, Task, TaskSuite


@pytest.fixture(autouse=True, scope="session")
def own_stores(tmp_path_factory):
    """Prepared suites of toys do not belong into the user's cache."""
    folder = tmp_path_factory.mktemp("suites")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headstart.tasks.store.stores_folder", lambda: folder)
        patch.setattr("headstart.tasks.prepare.stores_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="module")
def one_thread():
    """Tiny products take longer to share out than to compute, the more so where other processes want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


# Windows of 24 tokens are shorter than every conversation of the toy suite, prefix included.
ARCHITECTURES = {
    "llama": {},
    "qwen3": {"head_dim": 16, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "mistral": {"sliding_window": 24},
    "gemma3_text": {"head_dim": 16, "sliding_window": 24, "sliding_window_pattern": 2},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048},
    "gpt_neox": {},
    # its layers put out pairs, the second of which is None
    "falcon": {"multi_query": False, "parallel_attn": False, "new_decoder_architecture": False, "bias": True, "alibi": False},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 24},
    "bloom": {"n_layer": 2, "n_head": 4},
    "lfm2": {"full_attn_idxs": [1]},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    # the models whose output layer is not all that makes their logits: a soft cap, a scaling
    "gemma2": {"head_dim": 16, "sliding_window": 24, "final_logit_softcapping": 5.0},
    "granite": {"logits_scaling": 4.0},
    "cohere2": {"sliding_window": 24, "logit_scale": 0.25},
}


@pytest.fixture(scope="session")
def architecture_folder(tmp_path_factory):
    """Saves a random two-layer model of an architecture, once a session."""
    made = {}

    def save(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            tokenizer = build_tokenizer()
            sizes = {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            }
            special = {
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            }
            options = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "initializer_range": 0.2, **sizes, **special}
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**options, **ARCHITECTURES[name]})).save_pretrained(made[name])
            tokenizer.save_pretrained(made[name])
        return made[name]

    return save


@pytest.fixture
def architecture(architecture_folder):
    """Loads a random model of an architecture by the real code."""

    def load(name, quantization="none", dtype="float32"):
        return load_base(BaseSpec(id=f"test/{name}", source=str(architecture_folder(name)), quantization=quantization, dtype=dtype), "cpu")

    return load


@pytest.fixture
def assert_same():
    """Equal to 1e-5 of each tensor's own scale."""

    def compare(first, second, relative=1e-5):
        assert first.keys() == second.keys()
        for name in first:
            scale = float(second[name].abs().max())
            assert float((first[name] - second[name]).abs().max()) <= relative * scale + 1e-9, name

    return compare


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
def hub(tmp_path, monkeypatch):
    """A running hub that this process's client talks to, the token not being at hand."""
    with serving() as hub:
        point_client_at(hub.url, tmp_path / "home", monkeypatch)
        yield hub


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
