"""The fit against what it means: the inner loop itself, PyTorch's AdamW, each trial alone, and a run that was never stopped."""

from dataclasses import replace

import pytest
import torch

from headstart.adapting.fit import Stopped, fit
from headstart.adapting.settings import Schedule, Settings
from headstart.adapting.store import Store
from headstart.adapting.trials import ADAMW_RATE, Fold, Trial, fresh, shipped
from headstart.algorithms.inner import expand, gradients, walk
from headstart.tasks.episodes import Draw


@pytest.fixture
def trial(meta, passes, toy_suite):
    """Builds a trial of a toy task."""

    def build(name="upper", way=None, train=5, held=4, settings=None, stop=None, **options):
        settings = settings or Settings(steps=6)
        way = way or shipped(meta, passes.learner, settings)
        task = toy_suite.tasks[name]
        schedule = settings.schedule(train, way.trained)
        fold = Fold(task.examples[:train], task.examples[train : train + held])
        return Trial(name, task, way, (fold,), schedule, schedule.steps if stop is None else stop, schedule.looks(False), **options)

    return build


def test_the_shipped_rule_is_the_inner_loop(meta, passes, trial, assert_same):
    only = trial()
    rows = passes.batcher.query_rows([Draw(only.task, (), only.folds[0].train)])
    *_, last = walk(passes.learner.losses, expand(meta.theta, 1), [rows], meta.adaptation.build(), meta.schedule(passes.learner), steps=6)
    found = fit([only], passes)["upper"]
    assert found.steps == 6
    assert len(found.losses) == 6
    assert_same(found.kept, last.phi, 1e-6)


def test_rates_that_mix_ranks_are_the_inner_loops_too(meta, mixing, passes, trial, assert_same):
    mixed = mixing(meta)
    only = trial(way=shipped(mixed, passes.learner, Settings(steps=6)))
    rows = passes.batcher.query_rows([Draw(only.task, (), only.folds[0].train)])
    *_, last = walk(passes.learner.losses, expand(meta.theta, 1), [rows], meta.adaptation.build(), mixed.schedule(passes.learner), steps=6)
    found = fit([only], passes)["upper"]
    assert_same(found.kept, last.phi, 1e-6)
    plain = fit([trial()], passes)["upper"].kept
    assert all(not torch.allclose(found.kept[name], tensor, atol=1e-4) for name, tensor in plain.items())


@pytest.mark.parametrize("mixes", [False, True], ids=["numbers", "matrices"])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_beyond_the_shipped_steps_it_is_adamw(make_meta, mixing, passes, trial, assert_same, rule, mixes):
    meta = mixing(make_meta(rule)) if mixes else make_meta(rule)
    settings = Settings(steps=7, learning_rate=2e-3)
    way = shipped(meta, passes.learner, settings)
    only = trial(way=way, settings=settings)
    found = fit([only], passes)["upper"]
    # by hand: three shipped steps, then PyTorch's optimiser, which goes on from Adam's moments where there are some
    rows = passes.batcher.query_rows([Draw(only.task, (), only.folds[0].train)])
    phi = expand(meta.theta, 1)
    for step in walk(passes.learner.losses, phi, [rows], meta.adaptation.build(), meta.schedule(passes.learner), steps=3):
        phi, memory = step.phi, step.after.memory
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in phi.items()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=2e-3, weight_decay=0.0)
    for name, parameter in parameters.items() if memory else ():
        moments = {"exp_avg": memory.first[name].clone(), "exp_avg_sq": memory.second[name].clone()}
        optimiser.state[parameter] = {"step": torch.tensor(3.0), **moments}
    for step in range(3, 7):
        _, gradient = gradients(passes.learner.losses, {name: each.detach() for name, each in parameters.items()}, rows)
        for name, parameter in parameters.items():
            parameter.grad = gradient[name]
        optimiser.param_groups[0]["lr"] = 2e-3 * (7 - step) / 4
        optimiser.step()
    assert_same(found.kept, {name: each.detach() for name, each in parameters.items()}, 1e-4)


def test_in_epochs_another_rule_hands_over_to_adamw_at_its_own_rate(make_meta, passes):
    assert shipped(make_meta("adam"), passes.learner, Settings(epochs=2)).after == make_meta("adam").adaptation.build()
    way = shipped(make_meta("sgd"), passes.learner, Settings(epochs=2))
    assert way.first != way.after
    assert all(float(rate[-1]) == pytest.approx(ADAMW_RATE) for rate in way.rates.values())


def test_trials_side_by_side_are_each_alone(meta, passes, trial, assert_same):
    settings = Settings(steps=6, batch_size=3)
    several = [
        trial("upper", settings=settings, stop=6),
        trial("twice", train=7, settings=settings, stop=4),
        trial("vowel", train=2, settings=settings),
        replace(trial("sorted", fresh(passes.learner, 3e-3, 0), settings=settings), looks=(0, 2, 6)),
    ]
    together = fit(several, passes)
    for one in several:
        alone = fit([one], passes)[one.name]
        assert together[one.name].steps == alone.steps
        assert together[one.name].losses == pytest.approx(alone.losses, rel=1e-5)
        assert together[one.name].held == pytest.approx(alone.held, rel=1e-5)
        assert_same(together[one.name].kept, alone.kept, 2e-5)


def test_rates_that_mix_ranks_side_by_side_with_numbers(meta, mixing, passes, trial, assert_same):
    """Of two tasks and a fresh LoRA each is as alone, though their rates are of other forms."""
    settings = Settings(steps=5, batch_size=3, learning_rate=1e-3)
    way = shipped(mixing(meta), passes.learner, settings)
    several = [trial("upper", way, settings=settings), trial("twice", way, train=7, settings=settings, stop=4)]
    several.append(trial("sorted", fresh(passes.learner, 3e-3, 0), settings=settings))
    together = fit(several, passes)
    for one in several:
        assert_same(together[one.name].kept, fit([one], passes)[one.name].kept, 1e-4)


def test_folds_of_a_trial_are_trials_of_one_fold(passes, trial, assert_same):
    first, second = trial(train=5), trial(train=8)
    both = replace(first, folds=first.folds + second.folds)
    found = fit([both], passes)["upper"]
    for number, one in enumerate((first, second)):
        alone = fit([one], passes)["upper"].kept
        assert_same({name: tensor[number : number + 1] for name, tensor in found.kept.items()}, alone, 2e-5)


def test_it_keeps_where_held_out_loss_is_lowest_and_stops_when_it_goes_up(passes, trial):
    hasty = replace(trial(way=fresh(passes.learner, 0.05, 0), train=3, settings=Settings(steps=40)), looks=tuple(range(41)))
    patient = fit([replace(hasty, choosing=True, patience=100)], passes)["upper"]
    assert patient.steps == min(patient.held, key=patient.held.get)
    assert 0 < patient.steps < 40
    stopped = fit([replace(hasty, choosing=True, patience=2)], passes)["upper"]
    lowest = min(stopped.held, key=stopped.held.get)
    assert stopped.steps == lowest
    assert max(stopped.held) == lowest + 2
    at_best = fit([replace(hasty, stop=stopped.steps)], passes)["upper"]
    assert all(torch.equal(stopped.kept[name], at_best.kept[name]) for name in at_best.kept)


def test_a_trial_that_diverges_fails_alone(passes, trial):
    broken = replace(trial("twice", fresh(passes.learner, 1e30, 0)), looks=())
    found = fit([trial("upper", fresh(passes.learner, 1e-3, 0)), broken], passes)
    assert "no number any more" in found["twice"].failed
    assert not found["twice"].kept
    assert found["upper"].failed is None
    assert len(found["upper"].losses) == 6
    assert all(torch.isfinite(tensor).all() for tensor in found["upper"].kept.values())


def test_no_steps_are_the_initialisation(meta, passes, trial):
    found = fit([trial(settings=Settings(steps=0))], passes)["upper"]
    assert (found.steps, found.losses) == (0, ())
    assert all(torch.equal(found.kept[name][0], meta.theta[name]) for name in meta.theta)


class Asking:
    """Asks for a stop at the n-th question."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_stopped_and_gone_on_is_never_stopped_to_the_bit(passes, trial, tmp_path, after):
    settings = Settings(epochs=2, batch_size=2, learning_rate=1e-3)
    trials = [
        replace(trial("upper", settings=settings), choosing=True, patience=50),
        trial("twice", train=3, settings=settings),
        trial("vowel", fresh(passes.learner, 1e-3, 0), settings=settings),
    ]
    wanted = fit(trials, passes)
    with pytest.raises(Stopped):
        fit(trials, passes, Store(tmp_path / "store", asked=Asking(after)))
    assert list((tmp_path / "store").iterdir())
    steps = []
    found = fit(trials, passes, Store(tmp_path / "store"), lambda *_: steps.append(1))
    assert len(steps) == 6 - after
    for name in wanted:
        assert (found[name].steps, found[name].losses, found[name].held) == (wanted[name].steps, wanted[name].losses, wanted[name].held)
        assert all(torch.equal(found[name].kept[key], wanted[name].kept[key]) for key in wanted[name].kept)


def test_another_fit_does_not_go_on_from_it(passes, trial, tmp_path):
    store = Store(tmp_path / "store", "base")
    one = trial()
    others = [trial(train=4), replace(one, schedule=Schedule(7, 1, None, 0)), trial(way=fresh(passes.learner, 1e-3, 0)), trial("twice")]
    digests = {store.digest([each]) for each in (one, *others)}
    assert len(digests) == 5
    assert store.digest([one]) == store.digest([trial()])
    assert Store(tmp_path, "another base").digest([one]) not in digests


def test_what_cannot_be_read_is_started_anew(passes, trial, tmp_path):
    with pytest.raises(Stopped):
        fit([trial()], passes, Store(tmp_path / "store", asked=Asking(5)))
    (left,) = (tmp_path / "store").iterdir()
    (left / "fit.json").write_text("{")
    assert fit([trial()], passes, Store(tmp_path / "store"))["upper"].losses == fit([trial()], passes)["upper"].losses
