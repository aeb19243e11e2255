"""How long legs are, in steps or in operations; which state they leave; what they are recorded to have taken."""

import json
import math

import pytest
import torch

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.recipe import OuterSection, parse_recipe
from headstart.training.outer import OuterOptimizer, schedule
from headstart.training.run import meta_train
from headstart.training.state import Leg, Progress, Spent, State, cost
from headstart.training.validation import Validation

FOMAML = {"algorithm": "fomaml", "inner": {"steps": 2, "learning_rate": 0.01}}


def phases(*lengths):
    return parse_recipe({"phases": [{"algorithm": "multitask", **length} for length in lengths]}).phases


def rows_of(recipe):
    return [json.loads(line) for line in (recipe.run.output_dir / "metrics.jsonl").read_text().splitlines()]


def spent(flops, steps=1):
    return Spent("multitask", steps, flops, 0.5)


def test_what_is_spent_past_a_budget_comes_off_the_next():
    three = phases({"flops": 100}, {"steps": 7}, {"flops": 50})
    assert Leg.of(three, []).flops == 100
    assert Leg.of(three, [spent(108)]).flops is None
    assert Leg.of(three, [spent(108), spent(999)]).flops == 42
    assert Leg.of(three, [spent(160), spent(999)]).flops == 1, "a leg has at least a step"


def test_shares_go_by_operations_where_they_are_what_ends_a_leg():
    by_flops, by_steps = phases({"flops": 100}, {"steps": 4})
    state = State({}, {})
    progress = Progress(state, State({}, {}, step=3), flops=30)
    assert progress.share(Leg(by_flops, 100)) == 0.3
    assert progress.share(Leg(by_steps)) == 0.75
    assert (Leg(by_flops, 100).units, Leg(by_steps).units) == (100, 4)


def test_costs_add_up():
    legs = [Spent("multitask", 1, 10, 0.25, 3), Spent("fomaml", 2, 5, 0.5, 4)]
    assert cost(legs) == {"flops": 15, "tokens": 7, "seconds": 0.8}


def test_a_phase_of_operations_ends_with_the_step_that_spends_them(tiny_recipe, quiet):
    meta_train(by_steps := tiny_recipe({"algorithm": "multitask", "steps": 3}, folder="steps"), quiet)
    operations = [row["flops"] for row in rows_of(by_steps)[1:]]
    for budget, steps in ((sum(operations[:2]), 2), (sum(operations[:2]) + 1, 3), (1, 1)):
        recipe = tiny_recipe({"algorithm": "multitask", "flops": budget}, folder=str(budget))
        (leg,) = meta_train(recipe, quiet).record["phases"]
        assert (leg["steps"], leg["flops"]) == (steps, sum(operations[:steps]))


def test_a_run_of_budgets_ends_within_a_step_of_their_sum(tiny_recipe, quiet):
    recipe = tiny_recipe({"algorithm": "multitask", "flops": 3 * 10**8}, {**FOMAML, "flops": 10**9})
    record = meta_train(recipe, quiet).record
    last = rows_of(recipe)[-1]["flops"]
    assert 1 <= record["cost"]["flops"] / 1.3e9 < 1 + last / 1.3e9
    assert all(leg["steps"] > 1 for leg in record["phases"])


def test_schedules_go_by_the_share_of_the_operations(tiny_recipe, quiet):
    recipe = tiny_recipe({"algorithm": "multitask", "flops": 6 * 10**8})
    meta_train(recipe, quiet)
    section, done = OuterSection(learning_rate=0.01, warmup_steps=1), 0.0
    for step, row in enumerate(rows_of(recipe)[1:]):
        assert row["learning_rate"] == pytest.approx(0.01 * schedule(step, done, section.warmup_steps))
        done += row["flops"] / (6 * 10**8)
    assert step > 2


def test_tokens_are_counted_as_operations_are(tiny_recipe, quiet):
    """In each leg and in all, of training alone; a first-order step passes over the support twice and over the query once."""
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 2}, {**FOMAML, "steps": 2}, suite={"layout": "padded"}, run={"eval_steps": 1})
    record = meta_train(recipe, quiet).record
    rows = rows_of(recipe)[1:]
    assert [leg["tokens"] for leg in record["phases"]] == [sum(row["tokens"] for row in part) for part in (rows[:2], rows[2:])]
    assert record["cost"]["tokens"] == sum(row["tokens"] for row in rows)
    assert all(2 < rows[3]["tokens"] / row["tokens"] < 5 for row in rows[:2])


@pytest.fixture
def scripted(monkeypatch):
    """Looks whose losses are given, and the states that were looked at."""
    seen = []

    def script(*losses):
        left = iter(losses)

        def look(self, learner, theta, rates):
            seen.append([{name: tensor.clone() for name, tensor in part.items()} for part in (theta, rates)])
            return {"validation/loss_0": 1.0, "validation/loss_adapted": next(left), "validation/gain": 0.0}

        monkeypatch.setattr(Validation, "__call__", look)
        return seen

    return script


BEST = {"load_best_model_at_end": True, "eval_steps": 2}


@pytest.mark.parametrize(
    ("losses", "best"),
    [((9, 3, 1, 2), 4), ((9, 1, 1, 2), 2), ((0, 3, 2, 1), 5), ((9, math.nan, 2, 3), 4), ((9, 3, math.inf, 4), 2)],
    ids=["middle", "the first of equals", "last, the start being no look of the leg", "not a number", "infinite"],
)
def test_a_leg_leaves_its_best_look(tiny_recipe, quiet, scripted, losses, best):
    seen = scripted(*losses)
    adapter = meta_train(tiny_recipe({**FOMAML, "steps": 5}, run=BEST), quiet)
    theta, rates = seen[{2: 1, 4: 2, 5: 3}[best]]
    for name in theta:
        assert torch.equal(adapter.theta[name], theta[name])
    assert all(torch.equal(adapter.rates[name], rates[name]) for name in rates)
    (leg,) = adapter.record["phases"]
    assert (leg["best_step"], leg["steps"]) == (best, 5)
    assert leg["loss"] == min(loss for loss in losses[1:] if math.isfinite(loss))


def test_a_look_sees_and_a_leg_leaves_averages_where_there_are_any():
    live = State({"a": torch.tensor([1.0])}, {"a": torch.tensor([0.1])}, step=7, spent=(spent(5),))
    average, log_rate = torch.tensor([3.0]), torch.tensor([0.2]).log()
    leg = Leg(phases({"steps": 9})[0])
    plain = Progress(State({}, {}, step=6), live)
    assert plain.averaged == live
    both = plain.after(live.theta, live.rates, {"average/theta/a": average, "average/log_rates/a": log_rate, "log_rates/a": log_rate}, 1, 1)
    assert (both.state.theta, both.state.rates) == (live.theta, live.rates), "what the optimiser goes on from"
    for left in (both.averaged, both.end(leg), both.looked(1.0, keep_best=True).best.state):
        assert left.theta == {"a": torch.tensor([3.0])}
        torch.testing.assert_close(left.rates["a"], torch.tensor([0.2]))
        assert left.step == 8
    kept = both.looked(1.0, keep_best=True)
    average += 1
    assert kept.end(leg).theta == {"a": torch.tensor([3.0])}, "a copy, as the optimiser goes on writing"
    rates_alone = plain.after(live.theta, live.rates, {"average/log_rates/a": log_rate}, 1, 1).averaged
    assert rates_alone.theta is live.theta


@pytest.fixture
def iterates(monkeypatch):
    """Every initialisation that the outer optimiser has stepped to."""
    seen, step = [], OuterOptimizer.step

    def stepping(self, *arguments):
        scalars = step(self, *arguments)
        seen.append({name: tensor.clone() for name, tensor in self.theta.items()})
        return scalars

    monkeypatch.setattr(OuterOptimizer, "step", stepping)
    return seen


AVERAGED = {"learning_rate": 0.01, "warmup_steps": 0, "ema_decay": 0.5}


def test_averages_are_looked_at_left_and_begun_with(tiny_recipe, quiet, scripted, iterates):
    """Each phase averages its own iterates, the second from where the first one's average stood."""
    seen = scripted(9, 1, 2, 3, 4)
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 2}, {**FOMAML, "steps": 2}, outer=AVERAGED, run={"eval_steps": 1})
    adapter = meta_train(recipe, quiet)
    first, second, third, fourth = iterates
    for name, tensor in adapter.theta.items():
        assert torch.equal(seen[1][0][name], first[name])
        torch.testing.assert_close(seen[2][0][name], (first[name] + 2 * second[name]) / 3)
        assert torch.equal(seen[3][0][name], third[name])
        torch.testing.assert_close(seen[4][0][name], (third[name] + 2 * fourth[name]) / 3)
        assert torch.equal(tensor, seen[4][0][name])
        # a step of Adam is at most about the learning rate
        assert float((third[name] - seen[2][0][name]).abs().max()) < 0.0101
    assert any(float((third[name] - second[name]).abs().max()) > 0.0101 for name in adapter.theta), "it went on from the iterate"
    warm = MetaAdapter.from_pretrained(recipe.run.output_dir / "phases" / "0-multitask")
    assert all(torch.equal(tensor, seen[2][0][name]) for name, tensor in warm.theta.items())
    assert all(torch.equal(rate, seen[4][1][name]) for name, rate in adapter.rates.items())


def test_the_best_look_of_averages_is_an_average(tiny_recipe, quiet, scripted):
    seen = scripted(9, 3, 1, 2)
    adapter = meta_train(tiny_recipe({**FOMAML, "steps": 5}, outer=AVERAGED, run=BEST), quiet)
    assert all(torch.equal(adapter.theta[name], tensor) for name, tensor in seen[2][0].items())
    assert all(torch.equal(adapter.rates[name], rate) for name, rate in seen[2][1].items())
    assert adapter.record["phases"][0]["best_step"] == 4


def test_averages_and_a_pull_back_leave_a_frozen_initialisation_to_the_bit(tiny_recipe, quiet, scripted):
    scripted(9, 1, 2, 3)
    outer = {**AVERAGED, "proximal": 10.0}
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 2}, {**FOMAML, "steps": 3, "learn": "rates"}, outer=outer)
    adapter = meta_train(recipe, quiet)
    warm = MetaAdapter.from_pretrained(recipe.run.output_dir / "phases" / "0-multitask")
    assert all(torch.equal(adapter.theta[name], tensor) for name, tensor in warm.theta.items())
    assert all(not torch.allclose(rate, torch.full_like(rate, 0.01), rtol=1e-3) for rate in adapter.rates.values())


def test_a_pull_back_is_to_where_its_phase_began(tiny_recipe, quiet, scripted, iterates):
    """With all its strength, learning rate times proximal being 1, every step is one of Adam's from there."""
    scripted(9, 1, 2, 3)
    outer = {"learning_rate": 0.01, "warmup_steps": 0, "proximal": 100.0, "lr_scheduler_type": "constant_with_warmup"}
    meta_train(tiny_recipe({"algorithm": "multitask", "steps": 2}, {**FOMAML, "steps": 3}, outer=outer), quiet)
    begun = iterates[1]
    far = [max(float((iterate[name] - begun[name]).abs().max()) for name in begun) for iterate in iterates[2:]]
    assert all(0.001 < distance < 0.0101 for distance in far)


def test_phases_have_rates_of_their_own(tiny_recipe, quiet, scripted):
    scripted(9, 1, 2, 3, 4)
    recipe = tiny_recipe(
        {"algorithm": "multitask", "steps": 2, "learning_rate": 0.02},
        {**FOMAML, "steps": 2},
        {**FOMAML, "steps": 2, "learning_rate": 0.005},
        outer={"learning_rate": 0.01, "warmup_steps": 1, "lr_scheduler_type": "linear"},
    )
    meta_train(recipe, quiet)
    rates = [row["learning_rate"] for row in rows_of(recipe)[1:]]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025])


def test_without_asking_a_leg_leaves_its_last(tiny_recipe, quiet, scripted):
    seen = scripted(9, 1, 2, 3)
    adapter = meta_train(tiny_recipe({**FOMAML, "steps": 5}), quiet)
    assert all(torch.equal(adapter.theta[name], tensor) for name, tensor in seen[-1][0].items())
    (leg,) = adapter.record["phases"]
    assert (leg["best_step"], leg["loss"]) == (None, 3)


def test_where_no_look_is_finite_the_last_state_stays(tiny_recipe, quiet, scripted):
    seen = scripted(9, math.nan, math.nan, math.nan)
    adapter = meta_train(tiny_recipe({**FOMAML, "steps": 5}, run=BEST), quiet)
    assert all(torch.equal(adapter.theta[name], tensor) for name, tensor in seen[-1][0].items())
    assert (adapter.record["phases"][0]["best_step"], adapter.record["phases"][0]["loss"]) == (None, None)


def test_the_next_leg_begins_at_the_best_and_with_episodes_of_its_own(tiny_recipe, quiet, scripted):
    """Steps go on counting from the last, so that no episode is drawn twice."""
    seen = scripted(9, 1, 2, 3, 3)
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 5}, {**FOMAML, "steps": 1, "learn": "rates"}, run=BEST)
    adapter = meta_train(recipe, quiet)
    assert [row["step"] for row in rows_of(recipe)] == [0, 1, 2, 3, 4, 5, 6]
    assert all(torch.equal(adapter.theta[name], tensor) for name, tensor in seen[1][0].items())
    assert [leg["best_step"] for leg in adapter.record["phases"]] == [2, 1]


def test_rates_alone_leave_the_initialisation_to_the_bit(tiny_recipe, quiet):
    """Also under weight decay, and in exact second order."""
    maml = {"algorithm": "maml", "steps": 2, "inner": {"steps": 2, "learning_rate": 0.01, "eps_root": 1e-4}, "learn": "rates"}
    recipe = tiny_recipe(
        {"algorithm": "multitask", "steps": 2},
        {**FOMAML, "steps": 3, "learn": "rates"},
        maml,
        outer={"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 0},
    )
    adapter = meta_train(recipe, quiet)
    folder = recipe.run.output_dir / "phases"
    warm, rates, exact = (MetaAdapter.from_pretrained(folder / name) for name in ("0-multitask", "1-fomaml", "2-maml"))
    for name, tensor in warm.theta.items():
        assert torch.equal(rates.theta[name], tensor)
        assert torch.equal(exact.theta[name], tensor)
    assert not warm.rates
    assert all(not torch.allclose(rate, torch.full_like(rate, 0.01), rtol=1e-3) for rate in rates.rates.values())
    assert adapter.rates.keys() == warm.theta.keys()


def test_rates_alone_move_as_beside_an_initialisation_that_stands_still(tiny_recipe, quiet):
    """The outer learning rate being next to nothing, both are the same run."""
    outer = {"learning_rate": 1e-30, "warmup_steps": 0}
    both, alone = (
        meta_train(tiny_recipe({**FOMAML, "steps": 3, "learn": learn}, outer=outer, folder=learn), quiet) for learn in ("all", "rates")
    )
    assert both.record["cost"]["flops"] == alone.record["cost"]["flops"]
    for name, rate in both.rates.items():
        torch.testing.assert_close(alone.rates[name], rate)
