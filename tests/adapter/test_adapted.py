"""The adapted adapter: saved and loaded again, evaluated in any form and any parts, and what it writes, ranks and tells of itself."""

from dataclasses import fields, replace
from functools import partial

import pytest
import torch

from headstart.adapter import adapted as module
from headstart.adapter.adapted import AdaptedAdapter, likeliest_first
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.algorithms.inner import expand
from headstart.model.base import load_base
from headstart.model.decode import DecodeError, Sampling, decode
from headstart.model.learner import Learner, LoraSpec
from headstart.passes import Passes, passes_over
from headstart.scoring import Metrics
from headstart.tasks.episodes import Draw
from headstart.tasks.task import Example, SuiteError


@pytest.fixture
def meta(dense_base, random_phi):
    with Learner(dense_base, LoraSpec(r=4, lora_alpha=8)) as learner:
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        return MetaAdapter(theta, {}, learner.spec, Adaptation(learning_rate=0.01), dense_base.spec, dense_base.fingerprint)


@pytest.fixture
def shouting(meta, dense_base, toy_suite):
    """Knows most of the rows that it was adapted on."""
    return meta.adapt(toy_suite.tasks["upper"].examples[:6], instruction="Shout.", steps=40, base=dense_base)


@pytest.fixture
def telling(meta, dense_base, toy_suite):
    """Tells vowels."""
    task = toy_suite.tasks["vowel"]
    return meta.adapt(task.examples[:9], instruction=task.instruction, labels=task.labels, steps=6, base=dense_base)


def test_saved_and_loaded_again_it_is_the_same(telling, dense_base, tmp_path):
    own = replace(telling, record={**telling.record, "notes": [1, None, "x"]}, max_length=300)
    own.save_pretrained(tmp_path / "mine")
    found = AdaptedAdapter.from_pretrained(tmp_path / "mine", base=dense_base)
    assert found.phi.keys() == own.phi.keys()
    assert all(torch.equal(found.phi[name], own.phi[name]) for name in own.phi)
    for each in fields(AdaptedAdapter):
        if each.name != "phi":
            assert getattr(found, each.name) == getattr(own, each.name), each.name
    assert (len(found.history), found.steps, found.labels) == (6, 6, ("yes", "no"))
    assert found.record["notes"] == [1, None, "x"]


def test_loading_loads_the_base_that_it_names(telling, toy_suite, tmp_path):
    telling.save_pretrained(tmp_path / "mine")
    rows = toy_suite.tasks["vowel"].examples[9:15]
    assert AdaptedAdapter.from_pretrained(tmp_path / "mine").evaluate(rows) == telling.evaluate(rows)


def test_a_meta_adapter_answers_as_it_is(meta, dense_base, tmp_path):
    meta.save_pretrained(tmp_path / "meta")
    found = AdaptedAdapter.from_pretrained(tmp_path / "meta", base=dense_base)
    unadapted = meta.adapt([Example("a", "b")], steps=0, base=dense_base)
    assert found.generate("word", max_new_tokens=4) == unadapted.generate("word", max_new_tokens=4)


def test_another_base_is_refused(telling, architecture, tmp_path):
    telling.save_pretrained(tmp_path / "mine")
    with pytest.raises(AdapterError, match="belongs to test/tiny, not to test/llama"):
        AdaptedAdapter.from_pretrained(tmp_path / "mine", base=architecture("llama"))


def test_rows_may_be_mappings_and_repeat_themselves(telling, toy_suite):
    rows = toy_suite.tasks["vowel"].examples[9:15]
    mappings = [{"input": f" {row.input} ", "output": f"{row.output}\n", "id": 7} for row in rows]
    wanted = telling.evaluate(rows)
    assert telling.evaluate(mappings) == telling.evaluate([*mappings, *rows]) == wanted
    assert wanted.examples == 6


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no examples"),
        ([{"input": "a"}], "row 1: `output` is missing"),
        ([{"input": "a", "output": "yes"}, {"input": "b", "output": 1}], "row 2: `output` is a number, not text"),
        ([{"input": "a", "output": "perhaps"}], "'perhaps', which is not among its labels"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_refused(telling, rows, told):
    with pytest.raises(SuiteError, match=told):
        telling.evaluate(rows)


@pytest.mark.parametrize("name", ["shouting", "telling"])
def test_evaluating_in_many_parts_is_evaluating_at_once(request, toy_suite, monkeypatch, name):
    adapted = request.getfixturevalue(name)
    rows = toy_suite.tasks["upper" if name == "shouting" else "vowel"].examples[:10]
    wanted, passes = adapted.evaluate(rows), []
    monkeypatch.setattr("headstart.passes.Passes", lambda *given: passes.append(Passes(*given, tokens=1)) or passes[-1])
    found = adapted.evaluate(rows)
    assert [each.tokens for each in passes] == [1]
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert (found.accuracy, found.examples) == (wanted.accuracy, wanted.examples)


def test_a_pass_of_few_tokens_has_many_parts(telling, toy_suite):
    """So that the law above is not of one part alone."""
    task = toy_suite.tasks["vowel"]
    draw = Draw(task, (), task.examples[:10])
    shares = {1: [], 10**6: []}
    with passes_over(telling.base, telling.lora, 512) as passes:
        for passes.tokens, told in shares.items():
            passes.answers(expand(telling.phi, 1), [draw], told.append)
    assert (len(shares[1]), len(shares[10**6])) == (10, 1)


def test_it_writes_what_decoding_alone_writes(shouting):
    inputs = ["abc", "a longer word", " e "]
    with passes_over(shouting.base, shouting.lora, 512) as passes:
        renderer = passes.batcher.renderer
        write = partial(decode, passes.learner, expand(shouting.phi, 1), end_id=renderer.end_id, sampling=Sampling(max_new_tokens=6))
        alone = [renderer.text(write([[renderer.prompt("Shout.", text)]])[0][0]) for text in inputs]
    assert shouting.generate(inputs, max_new_tokens=6) == alone
    assert shouting.generate(inputs[0], max_new_tokens=6) == alone[:1]
    assert len(set(alone)) > 1


def test_what_it_writes_is_what_counts_as_right(shouting, toy_suite):
    """The rows that it learned are mostly right, the others are not."""
    rows = toy_suite.tasks["upper"].examples[:12]
    written = shouting.generate([row.input for row in rows], max_new_tokens=12)
    right = [answer == row.output for answer, row in zip(written, rows, strict=True)]
    assert right == [shouting.evaluate([row]).accuracy == 1 for row in rows]
    assert shouting.evaluate(rows).accuracy == pytest.approx(sum(right) / len(rows))
    assert 0 < sum(right) < len(rows), "both must be there for this to show anything"


def test_settings_of_sampling_are_checked(shouting):
    for setting in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"seed": -1}):
        with pytest.raises(DecodeError, match=next(iter(setting))):
            shouting.generate("a", **setting)
    drawn = partial(shouting.generate, "zzz", max_new_tokens=8, temperature=3.0)
    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)


def test_labels_are_ranked_as_accuracy_ranks_them(telling, toy_suite):
    rows = toy_suite.tasks["vowel"].examples
    ranked = telling.classify([row.input for row in rows])
    for found in ranked:
        assert set(found) == {"yes", "no"}
        assert sum(found.values()) == pytest.approx(1, abs=1e-9)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    right = [next(iter(found)) == row.output for found, row in zip(ranked, rows, strict=True)]
    assert telling.evaluate(rows).accuracy == pytest.approx(sum(right) / len(rows))
    assert 0 < sum(right) < len(rows), "both must be there for this to show anything"


def test_probabilities_are_the_labels_own_likelihoods(telling):
    """By the losses of each label alone, which are means over its tokens, its end token among them."""
    single = replace(telling, labels=())
    likelihoods = {label: -single.evaluate([Example("abc", label)]).loss * (len(label) + 1) for label in telling.labels}
    shares = torch.softmax(torch.tensor(list(likelihoods.values()), dtype=torch.float64), 0).tolist()
    (found,) = telling.classify("abc")
    assert found == pytest.approx(dict(zip(likelihoods, shares, strict=True)), rel=1e-4)


def test_inputs_may_repeat_themselves(telling):
    first, second, third = telling.classify(["abc", "e", " abc"])
    assert first == third != second
    assert telling.generate([]) == []


def test_without_labels_there_is_nothing_to_rank(shouting):
    with pytest.raises(SuiteError, match="has no labels to choose from; adapt with `labels`, or use `generate`"):
        shouting.classify("abc")


def test_the_likeliest_come_first():
    assert list(likeliest_first({"a": 0.2, "b": 0.5, "c": 0.3})) == ["b", "c", "a"]


def test_the_card_tells_the_task_and_leaves_no_gap(telling, shouting, tmp_path):
    telling.save_pretrained(tmp_path / "telling")
    shouting.save_pretrained(tmp_path / "shouting")
    card = (tmp_path / "telling" / "README.md").read_text()
    for told in ("base_model: test/tiny", telling.instruction, "one of: yes, no", "in 6 steps on 9 examples", telling.base.fingerprint):
        assert told in card
    assert "?" not in card.replace(telling.instruction, "")
    other = (tmp_path / "shouting" / "README.md").read_text()
    assert "Shout." in other
    assert "one of:" not in other
    assert "?" not in other
    for each in (card, other):
        assert "More Information Needed" not in each
        assert "None" not in each


def test_a_failure_leaves_what_was_there(telling, tmp_path, monkeypatch):
    telling.save_pretrained(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_adapted_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(telling, instruction="another").save_pretrained(tmp_path / "mine")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_over_four_bits_it_comes_back_to_the_bit_too(tiny_spec, meta, toy_suite, tmp_path):
    base = load_base(tiny_spec("nf4"), "cpu")
    rows = toy_suite.tasks["upper"].examples[:4]
    own = replace(meta, base=base.spec).adapt(rows, instruction="Shout.", steps=2, base=base)
    own.save_pretrained(tmp_path / "mine")
    found = AdaptedAdapter.from_pretrained(tmp_path / "mine")
    assert found.base.spec == base.spec
    assert isinstance(found.evaluate(rows), Metrics)
    assert found.evaluate(rows) == own.evaluate(rows)


def test_no_inputs_have_no_answers(telling):
    assert telling.classify([]) == telling.generate([]) == []


def test_a_card_without_a_number_of_rows_has_no_gap(shouting, tmp_path):
    replace(shouting, record={}).save_pretrained(tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text()
    assert "steps. It is a plain PEFT adapter" in card
    assert "?" not in card.split("## Use")[0]
