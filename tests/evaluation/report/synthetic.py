"""A whole results document out of random numbers, with plain means and normal intervals in place of the real ones."""

import hashlib
import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np

from headstart.evaluation.records import BINS, Record

STEPS = (0, 1, 2, 5, 10, 20, 50)
ARMS = ("zero_shot", "random", "multitask", "meta_adamw", "meta")
CONSTANT = ("zero_shot", "icl")
SETTINGS = (("instructed", 16), ("house_rules", 16))
PAIR = ("meta_adamw", "multitask")
DRIFT_STEP = 10
PRIMARY_STEP = 10


def make_results(*, arms=ARMS, settings=SETTINGS, tasks=12, draws=3, seeds=(0, 1), steps=STEPS, pair=PAIR, metric="accuracy"):
    """The document of an evaluation of `arms` in `settings`, which are pairs of a regime and K; the first is the primary one."""
    facts = make_tasks(tasks)
    records = [
        record
        for (regime, k), (number, arm), (name, about), draw, seed in itertools.product(
            settings, enumerate(arms), facts.items(), range(draws), seeds
        )
        for record in make_curve(arm, number, name, about, regime, k, draw, seed, (0,) if arm in CONSTANT else steps)
    ]
    made = [make_setting(records, facts, regime, k, arms, pair) for regime, k in settings]
    primary = {"regime": settings[0][0], "k": settings[0][1], "step": PRIMARY_STEP, "pair": "-".join(pair), "metric": metric}
    found = made[0]["pairs"].get(primary["pair"], {}).get(str(PRIMARY_STEP))
    return {
        "schema_version": 3,
        "protocol": make_protocol(arms, settings, list(facts), seeds, steps, draws, primary),
        "headline": {**primary, **found[metric]} if found else None,
        "settings": made,
        "summary": made[0]["summary"],
        "pairs": made[0]["pairs"],
        "tasks": facts,
        "looks": [{"at": "2025-11-02T10:00:00+00:00", "adapter": "ab" * 32, "commit": "1daa94bedb51", "arms": list(arms)}],
        "notes": ["fewer than 20 clusters (4): wide intervals"],
        "records": [record.to_json() for record in records],
    }


def make_tasks(number):
    """Facts of tasks, three in a cluster, the third of which are generation; the last has no headroom and the one before a relative."""
    facts = {
        f"task_{n:02d}": {
            "cluster": f"cluster_{n // 3}",
            "dataset": f"dataset_{n}",
            "kind": "generation" if n % 3 == 2 else "classification",
            "query": 16,
            "majority": 0.0625 if n % 3 == 2 else 0.5,
            "headroom": n != number - 1,
            "relatives": ["trained_on_nli"] if n == number - 2 else [],
        }
        for n in range(number)
    }
    return facts


def make_curve(arm, number, task, about, regime, k, draw, seed, steps):
    """The records of one trajectory: arms of a higher number fall faster."""
    rng = np.random.default_rng([number, draw, seed, k, *regime.encode(), *task.encode()])
    height = 2.5 + 0.2 * rng.normal() - 0.25 * number + (0.5 if regime == "house_rules" else 0)
    for step in steps:
        done = np.log2(1 + step) / 6
        loss = height * (1 - 0.7 * done) + 0.08 * rng.normal()
        accuracy = float(np.clip(round(16 * (0.15 + 0.08 * number + 0.5 * done + 0.05 * rng.normal())) / 16, 0, 1))
        yield Record(
            arm=arm,
            task=task,
            cluster=about["cluster"],
            dataset=about["dataset"],
            regime=regime,
            k=k,
            draw=draw,
            seed=seed,
            step=step,
            loss=float(loss),
            accuracy=accuracy,
            invalid=float(max(0, round(16 * 0.4 * (1 - done))) / 16),
            examples=16,
            gaps=None if about["kind"] == "generation" else tuple(map(float, rng.normal(0, 0.02, BINS))),
            drift=float(0.01 * number + 0.002 * rng.normal()) if step == DRIFT_STEP else None,
        )


def make_setting(records, facts, regime, k, arms, pair):
    """One entry of `settings`."""
    records = [record for record in records if (record.regime, record.k) == (regime, k)]
    pairs = [(first, second) for first, second in (pair, ("meta_adamw", "random"), ("meta", "zero_shot")) if {first, second} <= set(arms)]
    curves = {arm: make_curve_summary(number, arms) for number, arm in enumerate(arms) if arm not in CONSTANT}
    kept = {name for name, about in facts.items() if about["headroom"]}
    found = {"-".join(sides): paired(records, *sides) for sides in pairs}
    rows = [("all tasks", set(facts)), ("without tasks that have no headroom", kept)]
    return {
        "regime": regime,
        "k": k,
        "summary": {arm: {str(step): measured(group) for step, group in steps_of(records, arm).items()} for arm in arms},
        "pairs": {name: {str(step): differences(group) for step, group in by_step.items()} for name, by_step in found.items()},
        "curves": curves,
        "curve_pairs": {
            "-".join(sides): {"auc_loss": interval([-0.11, -0.08]), "auc_accuracy": interval([0.01, 0.03])}
            for sides in pairs
            if set(sides) <= set(curves)
        },
        "target": {"arm": "random", "step": 50, "losses": dict.fromkeys(facts, 1.2)} if "random" in arms else None,
        "multitask_target": {"arm": "multitask", "step": 20, "losses": dict.fromkeys(facts, 1.4)} if "multitask" in arms else None,
        "sensitivity": [
            {
                "name": name,
                "tasks": len(tasks),
                "left_out": sorted(set(facts) - tasks),
                "pairs": {
                    pair_name: differences([record for record in by_step[PRIMARY_STEP] if record.task in tasks])
                    for pair_name, by_step in found.items()
                    if PRIMARY_STEP in by_step
                },
            }
            for name, tasks in rows
        ],
    }


def steps_of(records, arm):
    """The arm's records by step."""
    groups = defaultdict(list)
    for record in records:
        if record.arm == arm:
            groups[record.step].append(record)
    return groups


def paired(records, first, second):
    """Differences as records by step, an arm without steps being compared at every one."""
    left, right = steps_of(records, first), steps_of(records, second)
    return {
        step: [
            replace(one, loss=one.loss - other.loss, accuracy=one.accuracy - other.accuracy, invalid=one.invalid - other.invalid)
            for one, other in zip(left[step], right.get(step, right[0]), strict=True)
        ]
        for step in left
    }


def measured(group):
    found = differences(group)
    found["ece"] = interval([sum(map(abs, record.gaps)) for record in group if record.gaps])
    if group[0].step > 0:
        found |= {"gain": interval([0.4 + 0.1 * record.loss for record in group]), "improved": interval([0.9, 0.95, 0.99])}
    if group[0].drift is not None:
        found["drift"] = interval([record.drift for record in group])
    return found


def differences(group):
    return {metric: interval([getattr(record, metric) for record in group]) for metric in ("loss", "accuracy", "invalid")}


def interval(values):
    mean, half = float(np.mean(values)), float(1.96 * np.std(values) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def make_curve_summary(number, arms):
    areas = {
        "auc_loss": interval([1.8 - 0.1 * number, 1.9 - 0.1 * number]),
        "auc_accuracy": interval([0.3 + 0.05 * number, 0.35 + 0.05 * number]),
    }
    to_target = {"mean": 20.0, "low": 10.0, "high": 50.0, "censored": 0.25}
    to_multitask = {"mean": 5.0, "low": 2.0, "high": 10.0, "censored": 0.1}
    steps = {"random": ("steps_to_target", to_target), "multitask": ("steps_to_multitask", to_multitask)}
    return areas | dict(own for arm, own in steps.items() if arm in arms)


def make_protocol(arms, settings, measured_tasks, seeds, steps, draws, primary):
    grids = {str(horizon): {"0.00025": 1.31, "0.0005": 1.12, "0.001": 1.27} for horizon in (5, 10, 50)}
    named = [f"{regime}/{k}" for regime, k in settings]
    adapting = [arm for arm in arms if arm not in CONSTANT]
    spent = {"flops": 2.3e13, "tokens": 412_000, "seconds": 131.5}
    return {
        "adapters": [{"name": "quickstart", "seed": seed, "sha256": hashlib.sha256(str(seed).encode()).hexdigest()} for seed in seeds],
        "base": {
            "id": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "source": "bundled",
            "fingerprint": "c74975afe81b902a",
            "quantization": "nf4",
            "dtype": "bfloat16",
        },
        "base_variant_of": None,
        "suite": {"name": "builtin", "revision": "e7112e6a5ce6", "split": "meta_validation", "training_regime": "mixed"},
        "regimes": sorted({regime for regime, _ in settings}),
        "shots": sorted({k for _, k in settings}),
        "query": 16,
        "steps": list(steps),
        "horizons": [5, 10, 50],
        "draws": draws,
        "seeds": list(seeds),
        "tier": "standard",
        "primary": primary,
        "arms": {arm: f"what {arm} is" for arm in arms},
        "skipped": {"icl": "the prompts of 16 examples are longer than the base's context"},
        "measured": measured_tasks,
        "tuning": {
            "tasks": ["camel_to_kebab", "capital_of_country"],
            "grids": {name: dict.fromkeys(adapting, grids) for name in named},
            "chosen": {name: {arm: dict.fromkeys(grids, 0.0005) for arm in adapting} for name in named},
        },
        "cost": {
            "training": {"meta": spent, "multitask": {**spent, "tokens": None}},
            "evaluation": {"flops": 8.1e13, "tokens": 1_900_000, "seconds": 512.0},
        },
        "recipe": {"seed": 0, "adapter": {"r": 8, "lora_alpha": 16}, "phases": [{"algorithm": "multitask", "steps": 28}]},
        "drift": {"tokens": 2048, "sha256": "cd" * 32},
        "machine": "2 CPU cores, 2 threads (x86_64, AVX512)",
        "versions": {"headstart": "0.1.0", "torch": "2.13.0+cpu"},
        "commit": "1daa94bedb51",
        "seconds": 643.5,
    }
