"""What a phase asks of its algorithm, and whole runs with exact second order."""

import json

import pytest
import torch

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.hvp import RELATIVE_STEPS
from headstart.algorithms.inner import gradients
from headstart.algorithms.rules import Adam
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.recipe import FomamlPhase, MamlPhase, MultitaskPhase, parse_recipe
from headstart.training.errors import RunError
from headstart.training.inner import hessian, inner_loop
from headstart.training.loop import Trainer, adaptation
from headstart.training.outer import OuterOptimizer
from headstart.training.run import meta_train

WARM = {"algorithm": "multitask", "steps": 2}
INNER = {"steps": 2, "learning_rate": 0.01}


class Plain:
    """As much of a learner as an inner loop looks at."""

    forward_mode = True


def weights(phase, done):
    found = inner_loop(phase, Adam(), {}, done, Plain())
    return found.second_order, found.query_weights


def test_weights_move_along_a_phase():
    phase = MamlPhase(algorithm="maml", steps=10, inner={"steps": 2}, second_order_warmup=0.5, multi_step_loss=1.0)
    assert weights(phase, 0.0) == (0.0, (0.0, 0.5, 0.5))
    assert weights(phase, 0.25) == (0.5, pytest.approx((0.0, 0.375, 0.625)))
    assert weights(phase, 1.0) == (1.0, (0.0, 0.0, 1.0))
    assert weights(FomamlPhase(algorithm="fomaml", steps=1, inner={"steps": 2}, multi_step_loss=1.0), 0.0)[1] == (0.0, 0.5, 0.5)
    assert weights(MamlPhase(algorithm="maml", steps=1, inner={"steps": 2}), 0.0) == (1.0, (0.0, 0.0, 1.0))
    assert weights(MultitaskPhase(algorithm="multitask", steps=1), 0.0)[1] is None


@pytest.mark.parametrize("forward_mode", [True, False], ids=["forward over reverse", "double backward"])
def test_products_are_counted(dense_base, random_phi, batcher, episode, forward_mode, monkeypatch):
    """An exact one costs more than the two first-order gradients of a finite difference, and less than six."""
    monkeypatch.setattr(Learner, "forward_mode", forward_mode)
    with Learner(dense_base, LoraSpec(r=4)) as learner:
        rows, phi = batcher(dense_base).batch(episode).query, random_phi(learner, 3)

        def spent(compute):
            before = learner.flops
            compute()
            return learner.flops - before

        first = spent(lambda: gradients(learner.losses, phi, rows))
        exact = hessian(MamlPhase(algorithm="maml", steps=1), learner)
        near = hessian(MamlPhase(algorithm="maml", steps=1, hvp="finite_difference"), learner)
        assert spent(lambda: near(learner.losses, phi, rows, phi)) == 2 * first
        assert 2 * first <= spent(lambda: exact(learner.losses, phi, rows, phi)) < 6 * first


def test_finite_differences_go_by_the_bases_type(tiny_spec):
    for dtype, wanted in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Learner(load_base(tiny_spec(dtype=dtype), "cpu"), LoraSpec()) as learner:
            near = hessian(MamlPhase(algorithm="maml", steps=1, hvp="finite_difference"), learner)
        assert near.keywords == {"relative_step": RELATIVE_STEPS[wanted]}


def test_a_run_goes_from_first_to_second_order(tiny_recipe, quiet):
    """Rates learned by fomaml go on, and the rule that was learned with is what is recorded."""
    fomaml = {"algorithm": "fomaml", "steps": 2, "inner": INNER}
    maml = {"algorithm": "maml", "steps": 3, "inner": {**INNER, "eps_root": 1e-6}, "second_order_warmup": 0.5, "multi_step_loss": 0.5}
    recipe = tiny_recipe(WARM, fomaml, maml)
    adapter = meta_train(recipe, quiet)
    assert adapter.adaptation.eps_root == 1e-6
    assert adapter.adaptation.build() == Adam(eps_root=1e-6)
    saved = MetaAdapter.from_pretrained(recipe.run.output_dir / "adapter")
    assert saved.adaptation == adapter.adaptation
    before = MetaAdapter.from_pretrained(recipe.run.output_dir / "phases" / "1-fomaml")
    assert before.adaptation.eps_root == 0
    for name, rate in adapter.rates.items():
        assert 0 < float((rate / before.rates[name]).log().abs().max()) < 0.1, "they moved on from where fomaml left them"
    rows = [json.loads(line) for line in (recipe.run.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows[-3:]] == ["maml"] * 3
    assert all(torch.isfinite(tensor).all() for tensor in adapter.theta.values())


def test_a_rule_without_momentum_is_trained_with_kept_and_no_other_rules_rates_go_on_under_it(tiny_recipe, quiet):
    with_momentum, without = ({"algorithm": "fomaml", "steps": 2, "inner": {**INNER, "beta1": beta1}} for beta1 in (0.9, 0.0))
    recipe = tiny_recipe(WARM, with_momentum, without)
    adapter = meta_train(recipe, quiet)
    saved = MetaAdapter.from_pretrained(recipe.run.output_dir / "adapter")
    assert saved.adaptation.build() == adapter.adaptation.build() == Adam(beta1=0.0)
    before = MetaAdapter.from_pretrained(recipe.run.output_dir / "phases" / "1-fomaml")
    assert before.adaptation.build() == Adam()
    moved = [float((rate / INNER["learning_rate"]).log().abs().max()) for rate in adapter.rates.values()]
    assert max(moved) <= 2 * recipe.outer.rates_learning_rate, "they started anew, and two steps brought them no further"
    other = meta_train(tiny_recipe(WARM, with_momentum, with_momentum, folder="other"), quiet)
    assert not all(torch.equal(adapter.theta[name], tensor) for name, tensor in other.theta.items())


@pytest.mark.parametrize("choice", [{"inner_state": "recompute"}, {"inner_state": "offload"}], ids=lambda choice: choice["inner_state"])
def test_where_inner_states_wait_changes_no_bit(tiny_recipe, quiet, choice):
    maml = {"algorithm": "maml", "steps": 2, "inner": {**INNER, "steps": 3}}
    first, second = (meta_train(tiny_recipe(WARM, {**maml, **extra}, folder=str(bool(extra))), quiet) for extra in ({}, choice))
    assert all(torch.equal(first.theta[name], second.theta[name]) for name in first.theta)
    assert all(torch.equal(first.rates[name], second.rates[name]) for name in first.rates)


def test_a_rough_rule_is_said_before_anything_moves(learner, batcher, toy_suite):
    """What a recipe cannot tell: sites that earlier phases never moved."""
    recipe = parse_recipe(
        {"phases": [WARM, {"algorithm": "maml", "steps": 1, "inner": INNER}], "suite": {"support": 2, "query": 2, "tasks_per_step": 2}}
    )
    phase, theta = recipe.phases[1], learner.fresh_adapter()

    class Rank:
        rank = 0

    trainer = Trainer(recipe, toy_suite, learner, batcher(learner.base), Rank(), None, None, None, None)
    rates = adaptation(phase.loop).constant_rates(theta)
    with pytest.raises(RunError, match=r"maml phase, inner\.eps_root 1e-08: the first inner gradient of .*lora_A .* exactly zero"):
        trainer.meta_gradient(phase, OuterOptimizer(theta, rates, recipe.outer), rates, 0, 0.0)
