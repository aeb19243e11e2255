"""A setting's numbers by hand, the laws they keep, and what is refused."""

import itertools
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.evaluation.records import Record
from headstart.evaluation.statistics import macro_mean
from headstart.evaluation.summary import headroom, summarise

STEPS = (0, 1, 3, 7)
"""Their log2(1 + step) are 0, 1, 2, 3."""


def record(arm, task, step, loss=1.0, *, cluster=None, draw=0, seed=0, accuracy=0.5, invalid=0.0, examples=20, gaps=None, drift=None):
    where = {"cluster": cluster or f"c{task}", "dataset": f"d{task}", "regime": "instructed", "k": 16}
    return Record(
        arm,
        task,
        draw=draw,
        seed=seed,
        step=step,
        loss=loss,
        accuracy=accuracy,
        invalid=invalid,
        examples=examples,
        gaps=gaps,
        drift=drift,
        **where,
    )


def curve(arm, task, losses, steps=STEPS, **kwargs):
    return [record(arm, task, step, loss, **kwargs) for step, loss in zip(steps, losses, strict=True)]


def bins(**gaps):
    """Ten gaps, those named `b0` to `b9` other than 0."""
    return tuple(gaps.get(f"b{n}", 0.0) for n in range(10))


def some_records(arms=("meta", "multitask", "icl"), tasks=6, draws=2, seeds=2, seed=0):
    """Every arm but `icl` at all steps, half of the tasks with calibration gaps; six clusters."""
    rng = np.random.default_rng(seed)
    records = []
    for arm, task, draw, one in itertools.product(arms, range(tasks), range(draws), range(seeds)):
        for step in (0,) if arm == "icl" else STEPS:
            gaps = tuple(rng.normal(0, 0.05, 10).tolist()) if task % 2 else None
            shown = {"accuracy": float(rng.integers(0, 21)) / 20, "invalid": 0.1, "gaps": gaps, "drift": 0.01 if step == 3 else None}
            records.append(record(arm, f"t{task}", step, float(task + rng.normal()), draw=draw, seed=one, **shown))
    return records


def mean(interval):
    return interval["mean"]


def test_means_are_macro_means_at_every_step():
    records = some_records()
    found = summarise(records, [], 3)["summary"]
    for arm, step, metric in itertools.product(("meta", "multitask"), STEPS, ("loss", "accuracy", "invalid")):
        own = [r for r in records if (r.arm, r.step) == (arm, step)]
        assert mean(found[arm][str(step)][metric]) == pytest.approx(macro_mean(own, metric))


def test_calibration_error_by_hand():
    records = [
        record("meta", "a", 0, gaps=bins(b1=0.1, b9=-0.2)),
        record("meta", "b", 0, gaps=bins(b1=-0.3, b9=-0.1)),
        record("meta", "c", 0),
    ]
    # over a and b alone: |(0.1 - 0.3) / 2| + |(-0.2 - 0.1) / 2|
    assert mean(summarise(records, [], 0)["summary"]["meta"]["0"]["ece"]) == pytest.approx(0.1 + 0.15)


def test_calibration_errors_of_a_pair_are_subtracted_after_their_signs_are_lost():
    records = [record(arm, task, 0, gaps=bins(b5=gap)) for arm, gap in (("meta", -0.1), ("multitask", 0.3)) for task in "ab"]
    assert mean(summarise(records, [("meta", "multitask")], 0)["pairs"]["meta-multitask"]["0"]["ece"]) == pytest.approx(0.1 - 0.3)


def test_gain_and_improved_by_hand():
    records = curve("meta", "a", [3, 2, 4, 1]) + curve("meta", "b", [2, 2, 1, 2.5])
    found = summarise(records, [], 3)["summary"]["meta"]
    assert [mean(found[str(step)]["gain"]) for step in (1, 3, 7)] == pytest.approx([0.5, 0.0, 0.75])
    assert [mean(found[str(step)]["improved"]) for step in (1, 3, 7)] == pytest.approx([0.5, 0.5, 0.5])
    assert not {"gain", "improved"} & found["0"].keys()


def test_metrics_that_were_not_measured_are_absent():
    records = curve("meta", "a", [3, 2, 4, 1]) + curve("meta", "b", [3, 2, 4, 1])
    records = [replace(r, drift=0.25) if r.step == 3 else r for r in records] + [record("icl", task, 0) for task in "ab"]
    found = summarise(records, [], 3)["summary"]
    assert {step: found["meta"][step].keys() & {"drift", "ece"} for step in ("0", "3")} == {"0": set(), "3": {"drift"}}
    assert mean(found["meta"]["3"]["drift"]) == pytest.approx(0.25)
    assert found["icl"].keys() == {"0"}
    assert found["icl"]["0"].keys() == {"loss", "accuracy", "invalid"}


def test_area_under_the_curve_by_hand():
    records = curve("meta", "a", [4, 2, 1, 1]) + curve("meta", "b", [4, 2, 1, 1])
    found = summarise(records, [], 3)["curves"]["meta"]
    # trapezoids of width 1: 3 + 1.5 + 1 = 5.5 over a range of 3
    assert mean(found["auc_loss"]) == pytest.approx(5.5 / 3)
    assert mean(found["auc_accuracy"]) == pytest.approx(0.5)


def test_areas_of_pairs_need_the_same_steps():
    first = curve("meta", "a", [4, 2, 1, 1]) + curve("meta", "b", [4, 2, 1, 1])
    same = [replace(r, arm="multitask", loss=r.loss + 1) for r in first]
    fewer = [replace(r, arm="eva") for r in first if r.step < 7]
    pairs = [("meta", "multitask"), ("meta", "eva"), ("meta", "icl")]
    found = summarise(first + same + fewer + [record("icl", task, 0) for task in "ab"], pairs, 3)
    assert found["curve_pairs"].keys() == {"meta-multitask"}
    assert mean(found["curve_pairs"]["meta-multitask"]["auc_loss"]) == pytest.approx(-1)
    assert found["curves"].keys() == {"meta", "multitask", "eva"}


def test_the_target_is_the_lowest_mean_loss():
    records = curve("random", "a", [5, 4, 2, 3]) + curve("random", "a", [5, 4, 6, 3], seed=1) + curve("random", "b", [1, 2, 2, 2])
    records += curve("random", "b", [1, 2, 2, 2], seed=1)
    assert summarise(records, [], 3)["target"] == {"arm": "random", "step": 7, "losses": {"a": 3.0, "b": 1.0}}


def test_the_target_names_step_50_where_it_was_measured():
    records = [r for task in "ab" for r in curve("random", task, [3, 2, 1], steps=(0, 50, 100))]
    assert summarise(records, [], 50)["target"]["step"] == 50
    assert summarise(records, [], 50, target_arm="eva")["target"] is None
    assert "steps_to_target" not in summarise(records, [], 50, target_arm="eva")["curves"]["random"]


def test_steps_to_target_by_hand():
    random_arm = [r for task in "abcde" for r in curve("random", task, [4, 3, 2, 1])]
    # reached after 1, 1, 3 and 7 steps, and never: the median is 3
    reached = {"a": [4, 1, 1, 1], "b": [4, 0.5, 2, 2], "c": [4, 2, 1, 1], "d": [4, 2, 2, 1], "e": [4, 2, 2, 2]}
    found = summarise(random_arm + [r for task, losses in reached.items() for r in curve("meta", task, losses)], [], 3)["curves"]
    assert found["meta"]["steps_to_target"]["mean"] == 3
    assert found["meta"]["steps_to_target"]["censored"] == pytest.approx(0.2)
    assert {found["meta"]["steps_to_target"][end] for end in ("low", "high")} <= set(STEPS)
    assert found["random"]["steps_to_target"] == {"mean": 7, "low": 7, "high": 7, "censored": 0}


def test_the_interval_of_steps_to_target_reaches_from_measured_step_to_measured_step():
    """Of twelve tasks a third each arrives after 1, 3 and 7 steps: a third is within 2.2 errors of 0.14 of a half."""
    tasks = [f"t{n:02}" for n in range(12)]
    random_arm = [r for task in tasks for r in curve("random", task, [4, 3, 2, 1])]
    arrivals = itertools.cycle([[4, 1, 1, 1], [4, 4, 1, 1], [4, 4, 4, 1]])
    meta = [r for task, losses in zip(tasks, arrivals, strict=False) for r in curve("meta", task, losses)]
    found = summarise(random_arm + meta, [], 3)["curves"]["meta"]["steps_to_target"]
    assert found == {"mean": 3, "low": 1, "high": 7, "censored": 0}


def test_steps_to_target_weigh_clusters_equally_and_count_the_censored_as_the_last_step():
    """Three of five tasks are quick, but they are one cluster of three."""
    random_arm = [
        r
        for task, cluster in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "z"))
        for r in curve("random", task, [4, 3, 2, 1], cluster=cluster)
    ]
    quick = [r for task in "abc" for r in curve("meta", task, [1, 1, 1, 1], cluster="x")]
    slow = curve("meta", "d", [4, 4, 4, 4], cluster="y") + curve("meta", "e", [4, 4, 4, 4], cluster="z")
    found = summarise(random_arm + quick + slow, [], 3)["curves"]["meta"]["steps_to_target"]
    assert (found["mean"], found["censored"]) == (7, pytest.approx(2 / 3))


def test_steps_to_multitask_by_hand():
    """Multi-task LoRA has a loss of 2 at step 20, and of 1 later: its step 20 is what is to be reached, not its lowest loss."""
    steps = (0, 5, 10, 20, 50)
    multitask = [r for task in "abcde" for r in curve("multitask", task, [5, 4, 3, 2, 1], steps)]
    # reached after 0, 5, 5 and 20 steps, and never: the median is 5
    reached = {"a": [2, 3, 3, 3, 3], "b": [5, 2, 2, 2, 2], "c": [5, 1, 3, 3, 3], "d": [5, 4, 3, 2, 3], "e": [5, 4, 3, 3, 3]}
    meta = [r for task, losses in reached.items() for r in curve("meta", task, losses, steps)]
    found = summarise(multitask + meta + [record("icl", task, 0) for task in "abcde"], [], 10)
    assert found["multitask_target"] == {"arm": "multitask", "step": 20, "losses": dict.fromkeys("abcde", 2.0)}
    assert found["target"] is None
    assert found["curves"].keys() == {"multitask", "meta"}
    assert "steps_to_target" not in found["curves"]["meta"]
    meta, multitask = (found["curves"][arm]["steps_to_multitask"] for arm in ("meta", "multitask"))
    assert (meta["mean"], meta["censored"]) == (5, pytest.approx(0.2))
    assert {meta["low"], meta["high"]} <= set(steps)
    assert multitask == {"mean": 20, "low": 20, "high": 20, "censored": 0}


def test_what_multitask_reaches_is_its_mean_over_draws_and_seeds():
    """Draws of 1 and 3 under one seed, of 5 and 7 under the other: 4, which a draw's own 3 is below and its 5 is not."""
    losses = {(0, 0): 1, (1, 0): 3, (0, 1): 5, (1, 1): 7}
    multitask = [r for (draw, seed), loss in losses.items() for r in curve("multitask", "a", [9, loss], (0, 20), draw=draw, seed=seed)]
    found = summarise(multitask, [], 20)
    assert found["multitask_target"]["losses"] == {"a": 4.0}
    assert found["curves"]["multitask"]["steps_to_multitask"]["censored"] == pytest.approx(0.5)


def test_both_targets_stand_beside_each_other():
    steps = (0, 20, 50)
    arms = {"random": [9, 8, 4], "multitask": [9, 6, 1], "meta": [9, 5, 4]}
    found = summarise([r for arm, losses in arms.items() for task in "ab" for r in curve(arm, task, losses, steps)], [], 20)
    assert (found["target"]["losses"]["a"], found["multitask_target"]["losses"]["a"]) == (4, 6)
    means = {arm: [numbers[f"steps_to_{name}"]["mean"] for name in ("target", "multitask")] for arm, numbers in found["curves"].items()}
    assert means == {"random": [50, 50], "multitask": [50, 20], "meta": [50, 20]}


def test_multitask_is_reached_at_its_last_step_where_20_was_not_measured():
    records = [r for task in "ab" for r in curve("multitask", task, [4, 1, 2, 3])]
    found = summarise(records, [], 3)
    assert found["multitask_target"] == {"arm": "multitask", "step": 7, "losses": {"a": 3.0, "b": 3.0}}
    assert found["curves"]["multitask"]["steps_to_multitask"]["mean"] == 1


def test_there_are_no_steps_to_a_multitask_that_does_not_adapt_or_is_not_there():
    meta = [r for task in "ab" for r in curve("meta", task, [4, 3, 2, 1])]
    for records in (meta, meta + [record("multitask", task, 0) for task in "ab"]):
        found = summarise(records, [], 3)
        assert found["multitask_target"] is None
        assert found["curves"]["meta"].keys() == {"auc_loss", "auc_accuracy"}


def test_a_constant_arm_is_paired_at_every_step():
    records = some_records()
    constant = macro_mean([r for r in records if r.arm == "icl"], "loss")
    found = summarise(records, [("meta", "icl"), ("icl", "meta")], 3)
    for step in STEPS:
        own = macro_mean([r for r in records if (r.arm, r.step) == ("meta", step)], "loss")
        assert mean(found["pairs"]["meta-icl"][str(step)]["loss"]) == pytest.approx(own - constant)
        assert mean(found["pairs"]["icl-meta"][str(step)]["loss"]) == pytest.approx(constant - own)
    assert not {"gain", "improved", "drift"} & found["pairs"]["meta-icl"]["3"].keys()
    assert "ece" in found["pairs"]["meta-icl"]["3"]


def test_pairing_takes_out_what_arms_have_in_common():
    second = [r for r in some_records(("multitask",)) if r.step == 3]
    first = [replace(r, arm="meta", loss=r.loss - 0.5) for r in second]
    found = summarise(first + second, [("meta", "multitask")], 3)
    alone, paired = found["summary"]["meta"]["3"]["loss"], found["pairs"]["meta-multitask"]["3"]["loss"]
    assert alone["high"] - alone["low"] > 1
    assert (paired["low"], paired["mean"], paired["high"]) == pytest.approx((-0.5, -0.5, -0.5))


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_is_irrelevant(shuffler):
    records = some_records()
    shuffled = sorted(shuffler.sample(records, len(records)), key=lambda r: ("meta", "multitask", "icl").index(r.arm))
    pairs = [("meta", "multitask"), ("meta", "icl")]
    assert summarise(shuffled, pairs, 3, "multitask", resamples=50) == summarise(records, pairs, 3, "multitask", resamples=50)


def test_intervals_depend_on_the_seed_alone():
    records = some_records()
    first, again, other = (summarise(records, [], 3, resamples=200, seed=seed)["summary"] for seed in (1, 1, 2))
    assert first == again != other


def test_intervals_stay_within_what_is_possible():
    records = [record("meta", task, 0, accuracy=float(n > 1), invalid=float(n == 0)) for n, task in enumerate("abcd")]
    found = summarise(records, [], 0)["summary"]["meta"]["0"]
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (0, 1)
    assert found["invalid"]["low"] == 0


def test_a_pair_is_compared_on_the_tasks_that_both_were_measured_on():
    """Drift of tasks a and b of one arm, of b and c of the other: the difference is b's."""
    drifts = {"meta": {"a": 9.0, "b": 0.5}, "multitask": {"b": 0.2, "c": 7.0}}
    records = [record(arm, task, 0, drift=own.get(task)) for arm, own in drifts.items() for task in "abc"]
    assert mean(summarise(records, [("meta", "multitask")], 0)["pairs"]["meta-multitask"]["0"]["drift"]) == pytest.approx(0.3)


def test_the_shape_is_json_s():
    found = summarise(some_records(), [("meta", "multitask")], 3, "multitask")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["regime", "k", "summary", "pairs", "curves", "curve_pairs", "target", "multitask_target", "sensitivity"]
    assert (found["regime"], found["k"]) == ("instructed", 16)
    for name in ("steps_to_target", "steps_to_multitask"):
        assert set(found["curves"]["meta"][name]) == {"mean", "low", "high", "censored"}


# Headroom.


def test_headroom_by_hand():
    """20 examples of majority 0.5: 0.7 is 1.95 standard errors above, 0.71 of two draws 2.07; a constant arm counts with its step 0."""
    facts = {task: {"majority": 0.5} for task in "abcd"}
    records = [record("meta", task, 10, accuracy=0.7) for task in "abc"] + [record("meta", task, 0, accuracy=1.0) for task in "abc"]
    records += [record("icl", task, 0, accuracy=accuracy) for task, accuracy in (("a", 0.7), ("b", 0.75), ("c", 0.5))]
    records += [record("meta", "d", 10, accuracy=accuracy, draw=draw) for draw, accuracy in enumerate((0.67, 0.75))]
    assert headroom(records, facts, 10) == {"a": False, "b": True, "c": False, "d": True}


def test_headroom_where_all_is_right():
    """Of 4 examples all right: (4 + 1/2) / 5 = 0.9, standard error 0.15; so a majority of 0.69 is beaten and one of 0.71 is not."""
    records = [record("meta", task, 0, accuracy=1.0, examples=4) for task in "ab"]
    assert headroom(records, {"a": {"majority": 0.69}, "b": {"majority": 0.71}}, 0) == {"a": True, "b": False}


# Sensitivity.


def sensitivity(facts, **kwargs):
    records = some_records(**kwargs)
    return records, summarise(records, [("meta", "multitask"), ("meta", "icl")], 3, tasks=facts)["sensitivity"]


def test_sensitivity_rows_leave_out_what_they_say():
    facts = {f"t{n}": {"headroom": n != 0, "relatives": ["near"] if n == 1 else []} for n in range(6)}
    records, rows = sensitivity(facts)
    left_out = {row["name"]: row["left_out"] for row in rows}
    assert left_out == {
        "all tasks": [],
        "without tasks that have no headroom": ["t0"],
        "without near relatives": ["t1"],
        "without both": ["t0", "t1"],
        **{f"without cluster ct{n}": [f"t{n}"] for n in range(6)},
    }
    assert [row["tasks"] for row in rows] == [6, 5, 5, 4] + [5] * 6
    for row in rows:
        kept = [r for r in records if r.task not in row["left_out"]]
        assert row["pairs"].keys() == {"meta-multitask", "meta-icl"}
        for metric in ("loss", "accuracy"):
            means = [macro_mean([r for r in kept if (r.arm, r.step) == at], metric) for at in (("meta", 3), ("multitask", 3), ("icl", 0))]
            assert mean(row["pairs"]["meta-multitask"][metric]) == pytest.approx(means[0] - means[1])
            assert mean(row["pairs"]["meta-icl"][metric]) == pytest.approx(means[0] - means[2])


def test_all_tasks_are_as_in_the_pairs():
    found = summarise(some_records(), [("meta", "multitask")], 3)
    row = found["sensitivity"][0]["pairs"]["meta-multitask"]
    assert row == {metric: found["pairs"]["meta-multitask"]["3"][metric] for metric in ("loss", "accuracy")}


def test_a_row_without_tasks_tells_what_an_evaluation_without_them_would():
    records, rows = sensitivity({f"t{n}": {"headroom": n > 1} for n in range(6)})
    alone = summarise([r for r in records if r.task not in ("t0", "t1")], [("meta", "multitask")], 3)
    kept = alone["pairs"]["meta-multitask"]["3"]
    assert rows[1]["pairs"]["meta-multitask"] == {metric: kept[metric] for metric in ("loss", "accuracy")}


def test_headroom_is_found_in_the_records_where_no_fact_says_it():
    records = [record(arm, task, 0, accuracy=0.9 if task == "a" else 0.5) for arm in ("meta", "multitask") for task in "ab"]
    rows = summarise(records, [("meta", "multitask")], 0, tasks={task: {"majority": 0.5, "relatives": []} for task in "ab"})["sensitivity"]
    assert [(row["name"], row["left_out"]) for row in rows] == [("all tasks", []), ("without tasks that have no headroom", ["b"])]


def test_no_row_leaves_out_everything():
    rows = sensitivity({f"t{n}": {"headroom": False, "relatives": ["near"]} for n in range(2)}, tasks=2)[1]
    assert [row["name"] for row in rows] == ["all tasks"]


def test_one_cluster_is_not_left_out_of_two():
    assert len(sensitivity({}, tasks=2)[1]) == 1
    assert len(sensitivity({}, tasks=3)[1]) == 4


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: [], "not of none"),
        (lambda records: [*records, replace(records[0], k=4)], "one regime and K"),
        (lambda records: [*records, replace(records[0], regime="house_rules")], "one regime and K"),
        (lambda records: records[:-1], "arm 'icl' lacks 1 of 24 records"),
        (lambda records: [*records, records[0]], "2 records of one task, draw, seed and step"),
        (lambda records: [replace(records[0], loss=math.nan), *records[1:]], "not finite"),
        (lambda records: [r for r in records if r.arm != "multitask"], "no records of arm 'multitask'; the arms are meta, icl"),
    ],
)
def test_unusable_records_raise(change, message):
    with pytest.raises(ValueError, match=message):
        summarise(change(some_records()), [("meta", "multitask")], 3)


def test_random_sample_of_records_is_refused_rather_than_averaged():
    records = some_records()
    with pytest.raises(ValueError, match="lacks"):
        summarise(random.Random(0).sample(records, len(records) - 5), [], 3)
