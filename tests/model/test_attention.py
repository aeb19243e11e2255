"""Packed rows on each architecture: its windows, its kinds of layers, its attention."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from headstart.algorithms.inner import gradients
from headstart.model.attention import layer_windows, packed_masks
from headstart.model.learner import Learner, LoraSpec
from headstart.model.probe import layout_error
from headstart.model.sites import handing
from headstart.tasks.planner import Planner
from headstart.tasks.rows import build_rows

WINDOWED = ("qwen3", "mistral", "gemma3_text")


def rendered(batcher, base, episode):
    return [[[one] for one in batcher(base).renderer.render(draw.task.instruction, draw.query)] for draw in episode]


@pytest.mark.parametrize("attention", ["headstart_blocks", "sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", *WINDOWED, "gpt2"])
def test_packed_equals_padded(architecture, batcher, random_phi, episode, assert_same, name, attention):
    """A boolean mask would be wrong in silence under eager attention, and so would windows counted along a packed row."""
    base = architecture(name)
    base.model.set_attn_implementation(attention)
    tasks = rendered(batcher, base, episode)
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        phi = random_phi(learner, len(episode))
        padded = gradients(learner.losses, phi, build_rows(tasks, layout="padded"))
        for planner in (Planner(), Planner(max_row_tokens=120)):
            packed = gradients(learner.losses, phi, build_rows(tasks, planner=planner))
            torch.testing.assert_close(packed[0], padded[0], rtol=1e-5, atol=0)
            assert_same(packed[1], padded[1])


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_shorter_than_the_conversations_and_matter(architecture, batcher, random_phi, episode, name):
    """What makes the law above one about windows."""
    base = architecture(name)
    tasks = rendered(batcher, base, episode)
    assert all(len(one.ids) > 24 for task in tasks for (one,) in task)
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        phi, rows = random_phi(learner, len(episode)), build_rows(tasks)
        narrow = learner.losses(phi, rows)
        base.model.config.sliding_window = 1000
        wide = learner.losses(phi, rows)
    assert ((narrow - wide).abs() > 1e-3).all()


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gemma2", "granite", "cohere2"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_label_only_logits_are_the_models_own(architecture, batcher, random_phi, episode, name, layout):
    """With soft caps and scalings behind the output layer, which the backbone and that layer alone would miss."""
    base = architecture(name)
    tasks = rendered(batcher, base, episode)
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner, torch.no_grad():
        phi = random_phi(learner, len(episode))
        losses = learner.losses(phi, build_rows(tasks, layout=layout))
        for index, task in enumerate(tasks):
            with handing(learner.sites, {name: tensor[index : index + 1] for name, tensor in phi.items()}):
                logits = [base.model(input_ids=torch.tensor([one.ids])).logits[0, one.answer - 1 : -1] for (one,) in task]
            each = [cross_entropy(mine, torch.tensor(one.ids[one.answer :])) for mine, (one,) in zip(logits, task, strict=True)]
            torch.testing.assert_close(losses[index], torch.stack(each).mean(), rtol=1e-5, atol=0)


def test_masks_come_in_the_form_that_the_model_takes(architecture, batcher, episode):
    llama, gemma = architecture("llama"), architecture("gemma3_text")
    for base in (llama, gemma):
        base.model.set_attn_implementation("sdpa")
    rows = build_rows(rendered(batcher, llama, episode))
    single, by_kind = packed_masks(llama.model, rows), packed_masks(gemma.model, rows)
    assert single.dtype == torch.bool
    assert by_kind.keys() == {"full_attention", "sliding_attention"}
    assert torch.equal(by_kind["full_attention"], single)
    assert (by_kind["sliding_attention"] <= single).all()
    assert layer_windows(gemma.model.config) == {"sliding_attention": 24, "full_attention": None}
    assert layer_windows(architecture("mistral").model.config) == {"full_attention": 24}
    gemma.model.set_attn_implementation("eager")
    added = packed_masks(gemma.model, rows)["sliding_attention"]
    assert torch.equal(added == 0, by_kind["sliding_attention"])
    assert (added[~by_kind["sliding_attention"]] < -1e30).all()


@pytest.mark.parametrize("name", ["gpt_neo", "bloom", "lfm2"])
def test_bases_that_cannot_share_rows_are_found_and_padded(architecture, batcher, random_phi, episode, assert_same, name):
    """One is wrong in silence, one refuses positions, one carries state from example to example; padded rows are right in all."""
    base = architecture(name)
    assert not base.packs
    assert layout_error(base.model, "packed") > 0.15
    tasks = rendered(batcher, base, episode)
    with Learner(base, LoraSpec(r=4, lora_alpha=8, target_modules=r".*(q_proj|query_key_value|out_proj|dense)")) as learner:
        phi = random_phi(learner, len(episode))
        together = gradients(learner.losses, phi, build_rows(tasks, layout="padded"))
        for index, task in enumerate(tasks):
            mine = {name: tensor[index : index + 1] for name, tensor in phi.items()}
            alone = gradients(learner.losses, mine, build_rows([task], layout="padded"))
            torch.testing.assert_close(together[0][index : index + 1], alone[0], rtol=1e-5, atol=0)
            assert_same({name: tensor[index : index + 1] for name, tensor in together[1].items()}, alone[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma3_text", "gpt2"])
def test_probe_lets_rounding_pass(architecture, name, quantization, dtype):
    base = architecture(name, quantization, dtype)
    assert base.packs
    assert layout_error(base.model, "packed") < (1e-5 if dtype == "float32" else 0.03)
    assert layout_error(base.model, "padded") < (1e-5 if dtype == "float32" else 0.03)
