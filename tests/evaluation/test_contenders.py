"""Which adapters may be judged together, and which controls count."""

import hashlib
import json

import pytest

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.evaluation.contenders import Contender, cost, digest, read_contenders, unequal
from headstart.evaluation.errors import EvaluationError

pytestmark = pytest.mark.usefixtures("one_thread")


def changed(folder, change):
    """Rewrites an adapter's headstart.json."""
    about = json.loads((folder / "headstart.json").read_text())
    change(about)
    (folder / "headstart.json").write_text(json.dumps(about))


def digest_of(folder):
    return digest(folder, MetaAdapter.from_pretrained(folder))


def test_a_contender_has_the_controls_beside_it(run_folder):
    contender = Contender.read(run_folder / "adapter")
    assert (contender.seed, contender.name, set(contender.controls)) == (0, "run", {"multitask"})
    assert set(contender.digests) == {"meta", "multitask"}
    assert contender.digests["meta"] == digest_of(run_folder / "adapter") != contender.digests["multitask"]
    (run_folder / "control").rename(run_folder / "elsewhere")
    assert Contender.read(run_folder / "adapter").controls == {}


def test_a_control_travels_within_the_folder(run_folder):
    beside = Contender.read(run_folder / "adapter").digests["multitask"]
    (run_folder / "control" / "adapter").rename(run_folder / "adapter" / "control")
    contender = Contender.read(run_folder / "adapter")
    assert contender.digests["multitask"] == beside
    changed(run_folder / "adapter" / "control", lambda about: about["record"].update(seed=7))
    with pytest.raises(EvaluationError, match=r"adapter/control: its seed is 7"):
        Contender.read(run_folder / "adapter")


def test_a_control_of_learned_rates_is_found_by_its_folder(run_folder):
    (run_folder / "control").rename(run_folder / "control_rates")
    assert set(Contender.read(run_folder / "adapter").controls) == {"multitask_rates"}


def test_the_digest_goes_by_weights_and_rates_alone(run_folder):
    before = digest_of(run_folder / "adapter")
    changed(run_folder / "adapter", lambda about: about["record"].update(name="other"))
    assert digest_of(run_folder / "adapter") == before
    rates = (run_folder / "adapter" / "rates.safetensors").read_bytes()
    (run_folder / "adapter" / "rates.safetensors").write_bytes(rates[:-1] + bytes([rates[-1] ^ 1]))
    assert digest_of(run_folder / "adapter") != before


def test_the_digest_goes_by_the_rule_too(run_folder):
    before = digest_of(run_folder / "adapter")
    changed(run_folder / "adapter", lambda about: about["adaptation"].update(eps_root=1e-4))
    assert digest_of(run_folder / "adapter") != before


def test_seeds_whose_searches_chose_differently_are_seeds_of_one_recipe(run_of):
    folders = [run_of(seed) / "adapter" for seed in (0, 1)]
    for folder, rate in zip(folders, (1e-3, 2e-3), strict=True):
        search = {"trials": [{"outer.learning_rate": rate, "phases.0.steps": 2}], "chosen": 0}
        (folder.parent / "control").rename(folder.parent / "gone")
        changed(folder, lambda about, rate=rate: about["record"]["recipe"]["outer"].update(learning_rate=rate))
        changed(folder, lambda about, search=search: about["record"].update(search=search))
    assert len(read_contenders(folders)) == 2
    changed(folders[1], lambda about: about["record"]["recipe"]["outer"].update(max_grad_norm=7.0))
    with pytest.raises(EvaluationError, match="differ in outer"):
        read_contenders(folders)


def test_a_kept_best_is_no_seed_of_a_kept_last(run_of):
    folders = [run_of(seed) / "adapter" for seed in (0, 1)]
    changed(folders[1], lambda about: about["record"]["recipe"]["run"].update(load_best_model_at_end=True))
    with pytest.raises(EvaluationError, match=r"differ in run\.load_best_model_at_end"):
        read_contenders(folders)


def test_what_was_not_recorded_cannot_be_equal(run_folder):
    changed(run_folder / "adapter", lambda about: about["record"].pop("cost"))
    assert unequal(Contender.read(run_folder / "adapter"), ["multitask"]) == [
        "seed 0: what the meta-adapter took was not recorded, so that multitask may have had more or less"
    ]


def test_several_adapters_are_seeds_of_one_recipe_in_their_order(run_of):
    folders = [run_of(seed) / "adapter" for seed in (1, 0)]
    assert [one.seed for one in read_contenders(folders)] == [0, 1]
    assert [one.seed for one in read_contenders(folders, [1])] == [1]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [([2], "no adapter given was trained by seed 2; theirs are 0, 1"), ([0, 5], "no adapter given was trained by seed 5")],
)
def test_seeds_that_no_adapter_has_are_refused(run_of, seeds, words):
    with pytest.raises(EvaluationError, match=words):
        read_contenders([run_of(seed) / "adapter" for seed in (0, 1)], seeds)


def test_two_adapters_of_one_seed_are_refused(run_of, tmp_path):
    first = run_of(0) / "adapter"
    second = first.rename(tmp_path / "second")
    first.parent.joinpath("control", "adapter").rename(first)
    with pytest.raises(EvaluationError, match="two adapters were trained by seed 0"):
        read_contenders([first, second])


@pytest.mark.parametrize(
    ("change", "section"),
    [
        (lambda about: about["record"]["recipe"]["outer"].update(learning_rate=1.0), "outer"),
        (lambda about: about["record"]["recipe"]["phases"][0].update(steps=3), "phases"),
        (lambda about: about["record"]["suite"].update(revision="other"), "suite's content"),
        (lambda about: about["base"].update(fingerprint="other"), "base's weights"),
    ],
)
def test_adapters_of_two_recipes_are_no_seeds_of_one(run_of, change, section):
    folders = [run_of(seed) / "adapter" for seed in (0, 1)]
    (folders[1].parent / "control").rename(folders[1].parent / "gone")
    changed(folders[1], change)
    with pytest.raises(EvaluationError, match=f"differ in {section}"):
        read_contenders(folders)


@pytest.mark.parametrize("section", ["run", "evaluation"])
def test_where_a_seed_wrote_and_how_it_was_looked_at_may_differ(run_of, section):
    folders = [run_of(seed) / "adapter" for seed in (0, 1)]
    changed(folders[1], lambda about: about["record"]["recipe"][section].clear())
    assert len(read_contenders(folders)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about["record"]["suite"].update(revision="other"), "its suite is"),
        (lambda about: about["record"]["suite"].update(regime="house_rules"), "its suite is"),
        (lambda about: about["base"].update(fingerprint="other"), "its base is"),
        (lambda about: about["record"].update(seed=5), "its seed is"),
    ],
)
def test_a_control_that_shares_less_than_all_but_the_algorithm_is_refused(run_folder, change, words):
    changed(run_folder / "control" / "adapter", change)
    with pytest.raises(EvaluationError, match=words):
        Contender.read(run_folder / "adapter")


def test_unequal_compute_is_told_of_arms_that_are_run(run_folder):
    contender = Contender.read(run_folder / "adapter")
    own, its = cost(contender.meta)["flops"], cost(contender.controls["multitask"])["flops"]
    ratio = its / own
    assert unequal(contender, ["multitask"]) == (
        [] if abs(ratio - 1) <= 0.05 else [f"seed 0: multitask was trained for {ratio:.2f} times the operations of the meta-adapter"]
    )
    changed(run_folder / "control" / "adapter", lambda about: about["record"]["cost"].update(flops=own // 2))
    contender = Contender.read(run_folder / "adapter")
    assert unequal(contender, ["multitask"]) == ["seed 0: multitask was trained for 0.50 times the operations of the meta-adapter"]
    assert unequal(contender, ["meta"]) == []


def test_none_given_is_an_error():
    with pytest.raises(EvaluationError, match="at least one adapter"):
        read_contenders([])


def test_costs_of_older_versions_count_no_tokens(run_folder):
    changed(run_folder / "adapter", lambda about: about["record"].update(cost={"flops": 5, "seconds": 1.0}))
    assert cost(MetaAdapter.from_pretrained(run_folder / "adapter")) == {"flops": 5, "tokens": 0, "seconds": 1.0}


def test_a_control_that_was_trained_for_another_adapter_is_refused(run_folder):
    weights = (run_folder / "adapter" / "adapter_model.safetensors").read_bytes()
    own = {"name": "run", "sha256": hashlib.sha256(weights).hexdigest(), "flops": 1, "spent": 1}
    changed(run_folder / "control" / "adapter", lambda about: about["record"].update(control_of=own))
    assert "multitask" in Contender.read(run_folder / "adapter").controls
    changed(run_folder / "control" / "adapter", lambda about: about["record"].update(control_of={**own, "name": "it", "sha256": "0"}))
    with pytest.raises(EvaluationError, match=r"the control of another adapter \(it\)"):
        Contender.read(run_folder / "adapter")


def test_unequal_search_is_told(run_folder):
    trials = [{"outer.learning_rate": rate} for rate in (1e-3, 2e-3, 4e-3)]
    changed(run_folder / "adapter", lambda about: about["record"].update(search={"trials": trials}))
    lines = unequal(Contender.read(run_folder / "adapter"), ["multitask"])
    assert "seed 0: multitask is the best of 1 search trials, the meta-adapter of 3" in lines
