"""A look at a recipe: what keeps it from running, all in one pass, and what it will take."""

import json
import os
import shutil

import pytest
import yaml
from hub import TOKEN, point_client_at, serving

from headstart.checking import estimate
from headstart.checking import recipe as recipe_module
from headstart.checking.check import check
from headstart.checking.recipe import together
from headstart.model.memory import footprint
from headstart.training.errors import RunError
from headstart.training.run import meta_train

FOMAML = {"algorithm": "fomaml", "steps": 3, "inner": {"steps": 2}}
MULTITASK = {"algorithm": "multitask", "steps": 2}


@pytest.fixture
def looked(recipe_content, tmp_path):
    """Checks a recipe that was written to a file."""

    def look(*phases, overrides=(), **sections):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_content(*phases, **sections)))
        return check(path, overrides)

    return look


def errors(findings):
    return [str(problem) for problem in findings.problems if problem.level == "error"]


def test_a_recipe_without_faults(looked, tiny_spec, own_cache):
    findings = looked(MULTITASK, FOMAML)
    assert findings.problems == []
    facts = findings.facts
    assert facts["base"]["id"] == "test/tiny"
    assert facts["base"]["weights_bytes"] == footprint(tiny_spec()).dense_bytes
    assert facts["adapter"]["layers"] == 14
    assert (facts["adapter"]["rank"], facts["adapter"]["targets"][0]) == (8, "down_proj")
    assert [(phase["algorithm"], phase["steps"]) for phase in facts["phases"]] == [("multitask", 2), ("fomaml", 3)]
    assert all(phase["tokens"]["padded"] > phase["tokens"]["packed"] > 0 for phase in facts["phases"])
    assert facts["phases"][1]["operations"] > 2 * facts["phases"][0]["operations"]
    assert facts["memory"]["total"] == sum(facts["memory"]["parts"].values())
    per_second = facts["time"]["operations_per_second"]
    assert facts["time"]["seconds"] == pytest.approx(sum(phase["steps"] * phase["operations"] / per_second for phase in facts["phases"]))
    # two clusters, of two tasks each
    assert facts["sampler"]["likeliest"]["share"] == facts["sampler"]["least_likely"]["share"] == 0.25
    json.dumps(findings.as_json(), allow_nan=False)


def test_a_phase_of_operations_is_reckoned_in_steps(looked):
    by_steps = looked(MULTITASK).facts["phases"][0]
    findings = looked({"algorithm": "multitask", "flops": round(4.5 * by_steps["operations"])})
    (phase,) = findings.facts["phases"]
    assert (phase["steps"], by_steps["flops"]) == (5, None)
    assert findings.facts["time"]["seconds"] == pytest.approx(5 * phase["operations"] / findings.facts["time"]["operations_per_second"])


def test_the_time_of_a_search_is_of_all_trials(looked):
    findings = looked(MULTITASK, search={"grid": {"outer.learning_rate": [0.1, 0.2, 0.3]}})
    (problem,) = findings.problems
    assert (problem.level, "3 trials" in problem.text) == ("note", True)
    (phase,) = findings.facts["phases"]
    assert findings.facts["time"]["seconds"] == pytest.approx(3 * phase["seconds"])


def test_of_several_numbers_of_shots_estimates_are_means_and_memory_the_largests(looked):
    alone = {shots: looked(FOMAML, suite={"support": shots}).facts for shots in (2, 8)}
    findings = looked(FOMAML, suite={"support": [8, 2]})
    (note,) = findings.problems
    assert (note.level, "means over its sizes (2, 8)" in note.text, "for the largest" in note.text) == ("note", True, True)
    (phase,), facts = findings.facts["phases"], findings.facts
    for what in (lambda each: each["operations"], lambda each: each["tokens"]["packed"], lambda each: each["tokens"]["padded"]):
        assert what(phase) == pytest.approx(sum(what(each["phases"][0]) for each in alone.values()) / 2)
    assert facts["memory"]["parts"]["logits"] == alone[8]["memory"]["parts"]["logits"]


def test_so_many_examples_are_needed_as_the_largest_number_of_shots_takes(looked):
    assert looked(suite={"support": [4, 19], "query": 5}).errors == 0
    (error,) = errors(looked(suite={"support": [20, 4], "query": 5}))
    assert "lower suite.support and suite.query" in error


def test_what_training_draws_anew_is_looked_at(looked):
    findings = looked(suite={"regime": "mixed", "codes": "episode", "paraphrase": True})
    notes = [problem.text for problem in findings.problems]
    assert findings.errors == 0
    assert [note.partition(" changes nothing")[0] for note in notes] == ["suite.codes: episode", "suite.paraphrase"]


def test_nothing_is_written_but_the_cache(looked, tmp_path):
    before = set(tmp_path.iterdir())
    looked()
    assert set(tmp_path.iterdir()) - before == {tmp_path / "recipe.yaml"}


def test_a_base_with_a_wrong_target_and_faulty_rows_and_a_bad_folder_in_one_pass(looked, toy_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with (toy_folder / "upper.jsonl").open("a") as file:
        file.write('\n{"input": "b"}')
    sections = {"adapter": {"target_modules": ["query"]}, "run": {"output_dir": str(tmp_path / "file" / "run")}}
    found = errors(looked(**sections))
    assert len(found) == 3
    assert f"{tmp_path / 'file'}" in found[0]
    assert "'query' matches nothing in this base" in found[1]
    assert "upper.jsonl, line 26: `output` is missing" in found[2]


def test_a_base_that_is_not_there_is_told_beside_the_folder(looked, tmp_path):
    (tmp_path / "file").write_text("")
    found = errors(looked(base={"source": str(tmp_path / "gone")}, run={"output_dir": str(tmp_path / "file")}))
    assert any("there is no folder" in each for each in found)
    assert any(str(tmp_path / "file") in each for each in found)
    assert len(found) == 2


def test_a_suite_that_is_too_small_is_an_error(looked):
    (error,) = errors(looked(suite={"support": 9999}))
    assert "lower suite.support and suite.query" in error


def test_a_suite_without_validation_is_an_error(looked, toy_folder):
    splits = json.loads((toy_folder / "splits.json").read_text())
    del splits["meta_validation"]
    (toy_folder / "splits.json").write_text(json.dumps(splits))
    (error,) = errors(looked())
    assert "has no split 'meta_validation'" in error


def test_inner_targets_that_match_nothing_are_an_error_as_in_training(looked):
    (error,) = errors(looked(MULTITASK, {**FOMAML, "inner": {"target_modules": ["query"]}}))
    assert error == "phases.1.inner.target_modules: 'query' matches none of the adapter's sites"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(looked, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    (error,) = errors(looked(run={"output_dir": str(tmp_path / "locked" / "run")}))
    assert "cannot be written" in error


def test_a_finished_run_is_an_error_as_in_training(looked, tiny_recipe, tmp_path):
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (error,) = errors(looked())
    with pytest.raises(RunError) as raised:
        meta_train(tiny_recipe(), resume=True)
    assert error == str(raised.value)


def test_rows_that_a_base_cannot_pack_are_an_error_as_in_training(looked, architecture_folder):
    base = {"id": "test/bloom", "source": str(architecture_folder("bloom"))}
    (error,) = errors(looked(base=base, suite={"layout": "packed"}))
    assert "set suite.layout to auto or padded" in error
    assert errors(looked(base=base)) == []


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ({"algorithm": "maml", "steps": 3, "inner": {"steps": 5}, "inner_state": "offload"}, "offload"),
        ({"algorithm": "maml", "steps": 3, "inner": {"steps": 5}}, "keep"),
    ],
)
def test_maml_behind_a_warm_start_is_estimated(looked, phase, words):
    findings = looked(MULTITASK, phase)
    assert findings.problems == []
    states = findings.facts["phases"][1]["inner_states"]
    assert states["kept"] == words
    assert (states["host"] > 0) == (words == "offload")
    assert "inner_states" not in findings.facts["phases"][0]
    assert findings.facts["phases"][1]["operations"] > 0


def test_too_little_memory_is_warned_of(looked, monkeypatch):
    monkeypatch.setattr(recipe_module, "free_memory", lambda: -(10**12))
    findings = looked()
    (warning,) = [problem for problem in findings.problems if problem.level == "warning"]
    assert "are free here; lower suite.tasks_per_step or suite.max_row_tokens" in warning.text
    assert findings.errors == 0
    monkeypatch.setattr(recipe_module, "free_memory", lambda: 10**15)
    assert looked().problems == []


def test_what_this_process_holds_is_free_for_the_run(looked, monkeypatch):
    """Its libraries count, but they are not there twice."""
    monkeypatch.setattr(recipe_module, "free_memory", lambda: 10**9)
    memory = looked().facts["memory"]
    assert memory["free"] == 10**9 + memory["parts"].get("Python and its libraries", 0)


def test_what_cannot_be_measured_is_a_note(looked, monkeypatch):
    def refuse(*_, **__):
        raise KeyError("no such layer")

    monkeypatch.setattr(estimate, "sketched", refuse)
    findings = looked(MULTITASK, FOMAML)
    (note,) = findings.problems
    assert (note.level, note.text) == ("note", "memory and time cannot be estimated: 'no such layer'")
    assert [phase["operations"] > 0 for phase in findings.facts["phases"]] == [True, True]
    assert "seconds" not in findings.facts["phases"][0]
    assert "memory" not in findings.facts


def test_checkpointing_takes_longer_and_less_memory(looked):
    kept, again = (looked(FOMAML, run={"gradient_checkpointing": each}).facts for each in (False, True))
    assert again["phases"][0]["operations"] > kept["phases"][0]["operations"]
    assert again["memory"]["parts"]["activations"] < kept["memory"]["parts"]["activations"]


@pytest.mark.parametrize(("micro_batch", "tasks"), [("auto", 3), (2, 2), (8, 3)])
def test_tasks_together(tiny_recipe, micro_batch, tasks):
    assert together(tiny_recipe(suite={"task_micro_batch": micro_batch})) == tasks


def test_a_base_without_a_template_is_noted_and_without_an_end_token_refused(looked, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    base = {"id": "test/plain", "source": str(folder)}
    (note,) = looked(base=base).problems
    assert note.level == "note"
    assert "no chat template" in note.text
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (error,) = errors(looked(base=base))
    assert "no chat template" in error


@pytest.fixture
def base_on_hub(tiny_folder, tmp_path, monkeypatch):
    """The tiny base on a hub of this process's own, the account's token being at hand."""
    with serving() as hub:
        point_client_at(hub.url, tmp_path / "home", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.make("test/tiny", {path.name: path.read_bytes() for path in tiny_folder.iterdir()})
        yield hub


def test_a_base_on_the_hub_is_looked_at_without_its_weights(looked, base_on_hub):
    findings = looked(MULTITASK, overrides=["base.source=hub"])
    assert findings.problems == []
    assert findings.facts["base"]["source"] == "hub"
    assert ("GET", "/api/whoami-v2") in base_on_hub.requests
    assert not [path for _, path in base_on_hub.requests if path.endswith(".safetensors")]


def test_a_token_that_the_hub_does_not_take_is_an_error(looked, base_on_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    (told,) = errors(looked(MULTITASK, overrides=["base.source=hub"]))
    assert "the hub does not accept the token (401" in told
    assert "hf auth login" in told
    assert "somebody" not in told


def test_no_token_is_a_note(looked, base_on_hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (problem,) = looked(MULTITASK, overrides=["base.source=hub"]).problems
    assert problem.level == "note"
    assert "no token of the model hub" in problem.text


def test_a_base_on_the_hub_without_weights_that_are_loaded_is_an_error(looked, base_on_hub, tiny_folder):
    others = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.suffix != ".safetensors"}
    base_on_hub.make("test/tiny", {**others, "pytorch_model.bin": b"pickled"})
    assert errors(looked(MULTITASK, overrides=["base.source=hub"])) == [
        "base.id: test/tiny holds no .safetensors weights on the hub; headstart loads no other format"
    ]
