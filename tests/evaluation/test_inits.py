"""PEFT's initialisations in our engine: what stock PEFT makes, on a base that stays whole."""

from dataclasses import replace

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights

from headstart.bases import BaseSpec
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.inits import INITS, LEFT_OUT, initialised, require_init
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing
from headstart.tasks.episodes import Draw
from headstart.tasks.task import Example

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:lora with eva initialization used with")]
LORA = LoraSpec(r=4, lora_alpha=6)
ALTERING = [name for name, init in INITS.items() if init.alters_base]
DATA_FREE = [name for name, init in INITS.items() if not init.needs_examples]
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.05}
"""Relative, in the norm of all logits; in bfloat16 adapter and residual weights are rounded anew."""


@pytest.fixture
def bench(tiny_spec, batcher):
    """Builds a learner and its batcher; on an architecture's base or the tiny Llama."""
    made = []

    def build(quantization="none", dtype="float32", lora=LORA, base=None):
        base = base or load_base(tiny_spec(quantization, dtype), "cpu")
        made.append(Learner(base, lora))
        return made[-1], batcher(base)

    yield build
    for learner in made:
        learner.close()


def first(adapter):
    return {name: tensor[0] for name, tensor in adapter.items()}


def logits(learner, phi, ids):
    one = {name: tensor[:1] for name, tensor in phi.items()}
    with handing(learner.sites, one), torch.no_grad():
        return learner.base.model(input_ids=ids).logits.float()


def distance(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def zero(learner):
    return {name: torch.zeros(1, *shape) for name, shape in learner.shapes().items()}


def weights(learner):
    return {name: parameter.detach().clone() for name, parameter in learner.base.model.named_parameters()}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def ids():
    return torch.randint(0, 256, (1, 24), generator=torch.Generator().manual_seed(3))


def stock(base, name, seed=0, **options):
    """Stock PEFT on a base of its own."""
    torch.manual_seed(seed)
    return get_peft_model(base.model, LoraConfig(r=4, lora_alpha=6, init_lora_weights=name, target_modules="all-linear", **options))


def factors(model):
    """The adapter of a stock model, in our names."""
    parts = {"lora_A.default.weight": "lora_A", "lora_B.default.weight": "lora_B"}
    found = {}
    for name, tensor in model.named_parameters():
        site, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        if f"lora_{part}" in parts:
            found[f"{site}.{parts[f'lora_{part}']}"] = tensor.detach()
    return found


# what stock PEFT makes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DATA_FREE)
def test_starts_where_stock_peft_does(bench, tiny_spec, episode, name, dtype):
    learner, batcher = bench(dtype=dtype)
    twin = stock(load_base(tiny_spec(dtype=dtype), "cpu"), name, seed=5)
    with initialised(name, learner, batcher, seed=5) as start:
        adapter = start(episode)
        assert_equal(first(adapter), factors(twin))
        for site_name, site in learner.sites.items():
            theirs = twin.get_submodule(f"base_model.model.{site_name}").base_layer.weight
            assert torch.equal(site.base.weight, theirs), site_name
    assert all(len(tensor) == len(episode) and tensor.dtype == torch.float32 for tensor in adapter.values())


@pytest.mark.parametrize("name", [name for name in DATA_FREE if name != "olora"])
def test_transposed_weights_start_where_stock_peft_does(bench, architecture, episode, name):
    """GPT-2's; stock PEFT's olora factorises the transpose there, and its adapter does not fit."""
    learner, batcher = bench(base=architecture("gpt2"))
    twin = stock(architecture("gpt2"), name, seed=5, fan_in_fan_out=True)
    with initialised(name, learner, batcher, seed=5) as start:
        found, wanted = first(start(episode)), factors(twin)
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5, msg=key)


def conversations(batcher, draw):
    """A task's support examples as stock PEFT takes them: ids, filled up, and labels."""
    rendered = batcher.renderer.render(draw.task.instruction, draw.support[0])
    longest = max(len(one.ids) for one in rendered)
    filled = [longest - len(one.ids) for one in rendered]
    return {
        "input_ids": torch.tensor([[*one.ids, *[0] * gap] for one, gap in zip(rendered, filled, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(one.ids) + [0] * gap for one, gap in zip(rendered, filled, strict=True)]),
        "labels": torch.tensor(
            [[-100] * one.answer + list(one.ids[one.answer :]) + [-100] * gap for one, gap in zip(rendered, filled, strict=True)]
        ),
    }


def test_eva_starts_where_stock_peft_does(bench, tiny_spec, episode):
    learner, batcher = bench()
    with initialised("eva", learner, batcher, seed=0) as start:
        found = start(episode)
    for index, draw in enumerate(episode):
        twin = stock(load_base(tiny_spec(), "cpu"), "eva", eva_config=EvaConfig(rho=1.0))
        initialize_lora_eva_weights(twin, [conversations(batcher, draw)], show_progress_bar=False)
        wanted = factors(twin)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name][index], tensor, rtol=1e-3, atol=1e-3, msg=f"{draw.task.name} {name}")


def test_eva_of_few_answers_looks_at_all_tokens_as_peft_advises(bench, tiny_spec, labelled_draw):
    """Two answers of three and two bytes and their ends: too few to find twice four components in."""
    few = replace(labelled_draw, support=(labelled_draw.support[0][:2],))
    learner, batcher = bench()
    with initialised("eva", learner, batcher, seed=0) as start:
        found = first(start((few,)))
    twin = stock(load_base(tiny_spec(), "cpu"), "eva", eva_config=EvaConfig(rho=1.0, use_label_mask=False))
    initialize_lora_eva_weights(twin, [conversations(batcher, few)], show_progress_bar=False)
    for name, tensor in factors(twin).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


def test_eva_looks_at_what_each_layer_is_fed(bench, episode):
    """By hand, exactly: the components span the directions of most variance of the layer's inputs at the answers' tokens."""
    learner, batcher = bench()
    batch = conversations(batcher, episode[0])
    fed = {}
    handles = [
        site.register_forward_hook(lambda _, inputs, __, name=name: fed.update({name: inputs[0]})) for name, site in learner.sites.items()
    ]
    with handing(learner.sites, {name: tensor.expand(len(batch["labels"]), -1, -1) for name, tensor in zero(learner).items()}):
        learner.base.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for handle in handles:
        handle.remove()
    with initialised("eva", learner, batcher, seed=0) as start:
        found = first(start(episode[:1]))
    for name in learner.sites:
        x = fed[name][batch["labels"] != -100].double()
        x = x - x.mean(0)
        most = torch.linalg.svdvals(x)[:4].square().sum()
        assert (x @ found[f"{name}.lora_A"].double().T).square().sum() >= 0.99 * most, name


# a base that stays whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", INITS)
def test_nothing_has_changed_before_the_first_step(bench, episode, ids, name, dtype):
    """An altered base and its adapter are the unaltered base; every other initialisation adds nothing."""
    learner, batcher = bench(dtype=dtype)
    wanted = logits(learner, zero(learner), ids)
    with initialised(name, learner, batcher, seed=0) as start:
        phi = start(episode)
        assert distance(logits(learner, phi, ids), wanted) <= TOLERANCES[dtype]
        bare = distance(logits(learner, zero(learner), ids), wanted)
    assert bare > 0.5 if INITS[name].alters_base else bare == 0


@pytest.mark.parametrize("name", ALTERING)
def test_transposed_weights_are_altered_alike(bench, architecture, episode, ids, name):
    learner, batcher = bench(base=architecture("gpt2"))
    before, wanted = weights(learner), logits(learner, zero(learner), ids)
    with initialised(name, learner, batcher, seed=0) as start:
        assert distance(logits(learner, start(episode), ids), wanted) <= TOLERANCES["float32"]
        assert all(not torch.equal(site.base.weight, before[f"{key}.base.weight"]) for key, site in learner.sites.items())
    assert_equal(weights(learner), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", INITS)
def test_weights_have_their_own_bits_afterwards(bench, episode, ids, name, dtype):
    learner, batcher = bench(dtype=dtype)
    before, wanted = weights(learner), logits(learner, zero(learner), ids)
    with initialised(name, learner, batcher, seed=0) as start:
        start(episode)
    assert_equal(weights(learner), before)
    assert torch.equal(logits(learner, zero(learner), ids), wanted)


@pytest.mark.parametrize("name", ALTERING)
def test_weights_have_their_own_bits_after_an_exception(bench, name):
    learner, batcher = bench()
    before = weights(learner)
    inside = {}

    def interrupted():
        with initialised(name, learner, batcher, seed=0):
            inside.update(weights(learner))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(inside[key], before[key]) != key.endswith("proj.base.weight") for key in before)
    assert_equal(weights(learner), before)


def test_weights_have_their_own_bits_where_altering_fails_midway(bench, monkeypatch):
    learner, batcher = bench()
    before, svd, done = weights(learner), torch.linalg.svd, []

    def failing(*args, **options):
        done.append(args)
        if len(done) == 4:
            raise torch.linalg.LinAlgError("did not converge")
        return svd(*args, **options)

    monkeypatch.setattr(torch.linalg, "svd", failing)
    with pytest.raises(torch.linalg.LinAlgError), initialised("pissa", learner, batcher, seed=0):
        pass
    assert_equal(weights(learner), before)


def test_an_exception_inside_eva_leaves_no_hooks(bench, labelled_draw):
    learner, batcher = bench(lora=LoraSpec(r=32, lora_alpha=32))
    short = Draw(replace(labelled_draw.task, instruction=""), (labelled_draw.support[0][:1],), labelled_draw.query)
    with (
        pytest.raises(EvaluationError, match=r"arm 'eva': the 1 support examples of task 'vowel' have \d+ tokens, and rank 32 needs 64"),
        initialised("eva", learner, batcher, seed=0) as start,
    ):
        start((short,))
    assert not any(site._forward_hooks for site in learner.sites.values())


@pytest.mark.parametrize("name", ALTERING)
def test_the_same_rows_and_learner_see_each_base(bench, episode, name):
    """Losses and gradients before, inside and after are those of learners made for each; nothing is remembered across the border."""
    learner, batcher = bench()
    rows = batcher.batch(episode).support[0]

    def measured(phi):
        leaves = {key: tensor.detach().requires_grad_() for key, tensor in phi.items()}
        losses = learner.losses(leaves, rows)
        return losses.detach(), torch.autograd.grad(losses.sum(), list(leaves.values()))

    none = {key: tensor.expand(3, -1, -1) for key, tensor in zero(learner).items()}
    before, gradients = measured(none)
    with initialised(name, learner, batcher, seed=0) as start:
        inside, inner = measured(start(episode))
        bare, _ = measured(none)
    after, again = measured(none)
    torch.testing.assert_close(inside, before, rtol=1e-3, atol=1e-3)
    assert float((bare - before).abs().max()) > 1e-2
    assert torch.equal(after, before)
    assert all(torch.equal(one, other) for one, other in zip(again, gradients, strict=True))
    # the gradient of A passes through B, which is not zero there
    assert all(float(gradient.abs().max()) > 0 for gradient in inner)


def test_frozen_layers_are_not_remembered_across_the_border(bench, episode):
    """Of the same rows and the same tensors, where nothing below the last layer adapts, so that what is below is reused."""
    learner, batcher = bench()
    rows = batcher.batch(episode).support[0]
    none = {key: tensor.expand(3, -1, -1).clone() for key, tensor in zero(learner).items()}

    def losses(rows):
        phi = {key: tensor.detach().requires_grad_() if "layers.1" in key else tensor for key, tensor in none.items()}
        return learner.losses(phi, rows).detach()

    before, reused = losses(rows), losses(rows)
    with initialised("pissa", learner, batcher, seed=0):
        inside, again, wanted = losses(rows), losses(rows), losses(batcher.batch(episode).support[0])
    after = losses(rows)
    assert rows.memo["frozen layers"].count == 1
    assert torch.equal(inside, wanted)
    assert torch.equal(again, wanted)
    assert torch.equal(reused, before)
    assert torch.equal(after, before)
    assert not torch.allclose(wanted, before, atol=1e-2)


# 4 bit


@pytest.mark.parametrize("name", [name for name in INITS if name not in ALTERING])
def test_four_bit_bases_are_left_as_they_are(bench, episode, ids, name):
    learner, batcher = bench(quantization="nf4", dtype="bfloat16")
    wanted = logits(learner, zero(learner), ids)
    with initialised(name, learner, batcher, seed=0) as start:
        phi = start(episode)
        assert {key: tensor.shape[1:] for key, tensor in phi.items()} == learner.shapes()
        assert distance(logits(learner, phi, ids), wanted) <= TOLERANCES["bfloat16"]
    assert torch.equal(logits(learner, zero(learner), ids), wanted)


@pytest.mark.parametrize("name", ["gaussian", "orthogonal"])
def test_what_is_random_is_the_same_in_four_bit(bench, episode, name):
    starts = []
    for quantization in ("none", "nf4"):
        learner, batcher = bench(quantization=quantization, dtype="bfloat16")
        with initialised(name, learner, batcher, seed=2) as start:
            starts.append(start(episode))
    assert_equal(*starts)


def test_eva_in_four_bit_is_close_to_dense_eva(bench, episode):
    """Their subspaces; the layers' inputs differ by what quantising did to the layers below."""
    starts = []
    for quantization in ("none", "nf4"):
        learner, batcher = bench(quantization=quantization)
        with initialised("eva", learner, batcher, seed=0) as start:
            starts.append(start(episode))
    below = "model.layers.0.self_attn.q_proj.lora_A"
    torch.testing.assert_close(starts[0][below], starts[1][below], rtol=1e-3, atol=1e-3)
    overlaps = [
        (dense.float() @ four_bit.mT).square().sum((1, 2)).mean() / 4
        for (name, dense), four_bit in zip(starts[0].items(), starts[1].values(), strict=True)
        if name.endswith("lora_A")
    ]
    assert min(overlaps) > 0.6


@pytest.mark.parametrize("name", ALTERING)
def test_what_rewrites_weights_refuses_four_bit(bench, name):
    with pytest.raises(EvaluationError, match=rf"arm '{name}'.*nf4.*--quantization none"):
        require_init(name, BaseSpec(quantization="nf4"), LORA)
    learner, batcher = bench(quantization="nf4")
    with pytest.raises(EvaluationError, match="--quantization none"), initialised(name, learner, batcher, seed=0):
        pass
    require_init(name, BaseSpec(quantization="none"), LORA)


# tasks, seeds, refusals


@pytest.mark.parametrize("name", INITS)
def test_tasks_together_are_tasks_one_by_one(bench, episode, name):
    learner, batcher = bench()
    with initialised(name, learner, batcher, seed=0) as start:
        together, alone = start(episode), [start((draw,)) for draw in episode]
    assert_equal(together, {key: torch.cat([one[key] for one in alone]) for key in together})


@pytest.mark.parametrize("name", INITS)
def test_seeds_change_what_is_random_and_nothing_else(bench, episode, name):
    learner, batcher = bench()
    state = torch.get_rng_state()
    starts = []
    for seed in (0, 0, 1):
        with initialised(name, learner, batcher, seed) as start:
            starts.append(start(episode[:1]))
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(starts[0], starts[1])
    differs = any(not torch.equal(starts[0][key], starts[2][key]) for key in starts[0])
    assert differs == (name in ("gaussian", "orthogonal", "pissa_niter_16"))


def test_eva_tells_tasks_apart(bench, episode):
    learner, batcher = bench()
    with initialised("eva", learner, batcher, seed=0) as start:
        phi = start(episode)
    a = phi["model.layers.1.mlp.down_proj.lora_A"]
    assert not torch.allclose(a[0], a[1], atol=0.1)
    torch.testing.assert_close(a @ a.mT, torch.eye(4).expand(3, -1, -1), rtol=0, atol=1e-4)


def test_eva_of_answers_all_alike_has_its_rank(bench, labelled_draw):
    """The first layer is fed four different vectors at most, which vary in three directions; the fourth component is any other."""
    alike = tuple(Example(example.input, "yes") for example in labelled_draw.query)
    learner, batcher = bench()
    with initialised("eva", learner, batcher, seed=0) as start:
        phi = start((replace(labelled_draw, support=(alike,), query=()),))
    for name, a in phi.items():
        if name.endswith("lora_A"):
            torch.testing.assert_close(a[0] @ a[0].mT, torch.eye(4), rtol=0, atol=1e-4, msg=name)


def test_eva_sees_every_minibatch(bench, episode):
    learner, batcher = bench()
    (whole,) = episode[:1]
    parts = replace(whole, support=(whole.support[0][:2], whole.support[0][2:]))
    with initialised("eva", learner, batcher, seed=0) as start:
        assert_equal(start((parts,)), start((whole,)))


def test_eva_is_counted(bench, episode):
    learner, batcher = bench()
    with initialised("eva", learner, batcher, seed=0) as start:
        start(episode[:1])
    assert learner.flops > 0


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_is_told_why(name):
    with pytest.raises(EvaluationError, match=rf"{name} is left out, since .*; there are eva, gaussian"):
        require_init(name, BaseSpec(quantization="none"), LORA)


def test_unknown_names_and_odd_ranks_are_refused():
    with pytest.raises(EvaluationError, match="unknown initialisation 'kaiming'; there are eva"):
        require_init("kaiming", BaseSpec(), LORA)
    with pytest.raises(EvaluationError, match="even rank, and the adapter's is 3"):
        require_init("orthogonal", BaseSpec(), LoraSpec(r=3))
    require_init("orthogonal", BaseSpec(), LoraSpec(r=2))


@pytest.mark.parametrize(("name", "most"), [("pissa", 32), ("olora", 32), ("eva", 32)])
def test_ranks_beyond_the_layers_are_refused(bench, name, most):
    """The narrowest layer puts out 32 numbers, and the narrowest input is of 64, half of which EVA keeps."""
    learner, batcher = bench(lora=LoraSpec(r=most + 1, lora_alpha=8))
    before = weights(learner)
    told = f"arm '{name}'.*at most {most}, and the adapter's is {most + 1}"
    with pytest.raises(EvaluationError, match=told), initialised(name, learner, batcher, seed=0):
        pass
    assert_equal(weights(learner), before)


def test_every_value_of_peft_is_known():
    """A new one in PEFT is to be looked at."""
    theirs = LoraConfig.__dataclass_fields__["init_lora_weights"].type
    named = {name for name in ("gaussian", "eva", "olora", "pissa", "corda", "loftq", "orthogonal", "mica") if name in str(theirs)}
    assert named == {name for name in (*INITS, *LEFT_OUT) if name not in ("pissa_niter_16", "lora_ga")}
