"""Laws of generation: a batch is its rows alone, answers are what the model itself finds likeliest, and nothing is left behind."""

import logging
import warnings
from contextlib import contextmanager

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel

from headstart.adapter.files import write_peft
from headstart.algorithms.inner import gradients
from headstart.model.base import load_base
from headstart.model.decode import DecodeError, Sampling, decode
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing
from headstart.tasks.rows import Rendered, build_rows

END = 257
SHORT = Sampling(max_new_tokens=12)
DRAWN = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.9)


def make_prompts(counts, seed=0):
    """Random requests of 5 to 44 tokens, beyond the windows of 24 that some architectures have."""
    generator = torch.Generator().manual_seed(seed)

    def prompt():
        length = int(torch.randint(5, 45, (1,), generator=generator))
        return tuple(torch.randint(0, 256, (length,), generator=generator).tolist())

    return [[prompt() for _ in range(count)] for count in counts]


def one_by_one(learner, phi, prompts, end_id=END, sampling=SHORT):
    alone = [{name: tensor[task : task + 1] for name, tensor in phi.items()} for task in range(len(prompts))]
    return [[decode(learner, mine, [[one]], end_id, sampling)[0][0] for one in each] for mine, each in zip(alone, prompts, strict=True)]


def scored(learner, phi, prompts, answers):
    """Full passes over prompts and answers, without a cache."""
    tasks = [[[Rendered(one + answer, len(one))] for one, answer in zip(*pair, strict=True)] for pair in zip(prompts, answers, strict=True)]
    return learner.scores(phi, build_rows(tasks, layout="packed" if learner.base.packs else "padded"))


def cut(answers, end_id):
    return [[one[: one.index(end_id)] if end_id in one else one for one in each] for each in answers]


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 3, 2), (2, 0, 1)])
def test_together_is_each_alone(learner, random_phi, counts):
    phi, prompts = random_phi(learner, len(counts)), make_prompts(counts)
    together = decode(learner, phi, prompts, END, SHORT)
    assert together == one_by_one(learner, phi, prompts)
    assert len({answer for each in together for answer in each}) == sum(counts), "answers must differ for this to show anything"


def test_adapters_answer_one_prompt_each_in_their_own_way(learner, random_phi):
    (prompt,) = make_prompts([1])[0]
    assert len({each[0] for each in decode(learner, random_phi(learner, 4), [[prompt]] * 4, END, SHORT)}) == 4


def test_greedy_answers_are_what_full_passes_find_likeliest(learner, random_phi):
    phi, prompts = random_phi(learner, 3), make_prompts((2, 1, 2))
    answers = decode(learner, phi, prompts, END, SHORT)
    assert scored(learner, phi, prompts, answers).greedy.all()
    changed = [[(*answer[:-1], (answer[-1] + 1) % END) for answer in each] for each in answers]
    assert not scored(learner, phi, prompts, changed).greedy.any()


def test_an_ended_answer_is_greedy_with_its_end_token(learner, random_phi):
    phi, prompts = random_phi(learner, 2), make_prompts((2, 2))
    end_id = decode(learner, phi, prompts, END, SHORT)[1][0][5]
    answer = decode(learner, phi, prompts, end_id, SHORT)[1][0]
    mine = {name: tensor[1:] for name, tensor in phi.items()}
    assert scored(learner, mine, [prompts[1][:1]], [[(*answer, end_id)]]).greedy.all()


def test_bfloat16_takes_the_likeliest_token_up_to_rounding(tiny_spec, random_phi):
    with Learner(load_base(tiny_spec("nf4", "bfloat16"), "cpu"), LoraSpec(r=4, lora_alpha=8)) as learner:
        phi, prompts = random_phi(learner, 2), make_prompts((2, 2))
        answers = decode(learner, phi, prompts, END, SHORT)
        for task, each in enumerate(answers):
            for prompt, answer in zip(prompts[task], each, strict=True):
                logits = full_logits(learner, {name: tensor[task : task + 1] for name, tensor in phi.items()}, prompt + answer)
                found = logits[len(prompt) - 1 : -1]
                behind = found.max(-1).values - found.gather(1, torch.tensor(answer)[:, None])[:, 0]
                assert (behind <= 0.05 * found.std()).all()


@torch.no_grad()
def full_logits(learner, phi, ids):
    with handing(learner.sites, phi):
        return learner.base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def test_stock_peft_generates_the_same(base, learner, random_phi, tmp_path):
    phi, prompts = random_phi(learner, 1), make_prompts([3])
    write_peft(tmp_path, {name: tensor[0] for name, tensor in phi.items()}, learner.spec, base.spec.id, None)
    assert decode(learner, phi, prompts, END, SHORT)[0] == [stock_answer(base.spec, tmp_path, one) for one in prompts[0]]


def stock_answer(spec, folder, prompt):
    """By stock PEFT and PyTorch's attention, over bitsandbytes' own products, unpadded."""
    model = load_base(spec, "cpu").model
    model.set_attn_implementation("sdpa")
    stock = PeftModel.from_pretrained(model, folder).eval()
    for module in stock.modules():
        if isinstance(module, Linear4bit):
            del module.forward
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": SHORT.max_new_tokens, "do_sample": False, "eos_token_id": END, "pad_token_id": END}
    found = stock.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
    return cut([[tuple(found)]], END)[0][0]


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "gpt2", "falcon", "bloom", "lfm2", "gemma2"])
def test_other_architectures_generate_in_a_batch_what_full_passes_find(architecture, random_phi, name):
    """Sliding windows, learned positions, ALiBi, state carried along the row, attention of their own."""
    with Learner(architecture(name), LoraSpec(r=4, lora_alpha=8)) as learner:
        phi, prompts = random_phi(learner, 2), make_prompts((2, 2))
        answers = decode(learner, phi, prompts, END, SHORT)
        assert answers == one_by_one(learner, phi, prompts)
        assert scored(learner, phi, prompts, answers).greedy.all()


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "gpt2"])
def test_generation_does_not_keep_training_from_skipping_frozen_layers(architecture, random_phi, name):
    with Learner(architecture(name), LoraSpec(r=4, lora_alpha=8)) as learner:
        decode(learner, random_phi(learner, 1), make_prompts([2]), END, SHORT)
        assert learner.layers.plain_outputs


def test_each_row_stops_at_its_end_token(learner, random_phi):
    phi, prompts = random_phi(learner, 3), make_prompts((2, 2, 2))
    whole = decode(learner, phi, prompts, END, SHORT)
    assert all(len(answer) == SHORT.max_new_tokens for each in whole for answer in each)
    end_id = whole[1][0][5]
    steps = []
    found = decode(learner, phi, prompts, end_id, SHORT, steps.append)
    assert found == cut(whole, end_id)
    assert len(found[1][0]) <= 5
    streamed = list(zip(*steps, strict=True))
    rows = [answer for each in found for answer in each]
    for row, answer in zip(streamed, rows, strict=True):
        assert row == answer + (end_id,) * (len(row) - len(answer)), "rows that have ended go on with their end token"


def test_generation_stops_when_all_rows_have(learner, random_phi):
    phi, prompts = random_phi(learner, 1), make_prompts([1])
    end_id = decode(learner, phi, prompts, END, SHORT)[0][0][3]
    steps = []
    (answer,) = decode(learner, phi, prompts, end_id, Sampling(max_new_tokens=50), steps.append)[0]
    assert steps == [[token] for token in (*answer, end_id)]


def test_a_seed_repeats_its_draws_and_leaves_the_global_generator_alone(learner, random_phi):
    phi, prompts = random_phi(learner, 2), make_prompts((2, 2))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = decode(learner, phi, prompts, END, DRAWN)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert decode(learner, phi, prompts, END, DRAWN) == first
    other = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.9, seed=1)
    assert decode(learner, phi, prompts, END, other) != first
    assert decode(learner, phi, prompts, END, SHORT) != first


def test_the_smallest_share_of_probability_is_the_likeliest_token(learner, random_phi):
    phi, prompts = random_phi(learner, 2), make_prompts((2, 2))
    narrow = Sampling(max_new_tokens=12, temperature=1.0, top_p=1e-6)
    assert decode(learner, phi, prompts, END, narrow) == decode(learner, phi, prompts, END, SHORT)


def test_first_draws_have_the_models_own_probabilities(dense_base, random_phi):
    """From all tokens, where transformers' own default would draw from the 50 likeliest."""
    with Learner(dense_base, LoraSpec(r=4, lora_alpha=8)) as learner:
        phi, (prompt,) = random_phi(learner, 1), make_prompts([1])[0]
        draws = 4000
        drawn = decode(learner, phi, [[prompt] * draws], END, Sampling(max_new_tokens=1, temperature=2.0))[0]
        counts = torch.bincount(torch.tensor([one[0] if one else END for one in drawn]), minlength=END + 1)
        wanted = torch.softmax(full_logits(learner, phi, prompt)[-1] / 2.0, -1)
    assert (counts > 0).sum() > 50
    # half the summed difference of two distributions; drawing from the right one gives some sqrt(tokens / draws) / 2
    assert float((counts / draws - wanted).abs().sum() / 2) < 0.15


OWN_DEFAULTS = {"do_sample": True, "temperature": 3.0, "top_k": 2, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "max_length": 20}


@pytest.mark.parametrize("sampling", [SHORT, DRAWN])
def test_the_bases_own_defaults_do_not_count_and_nothing_warns(learner, random_phi, sampling):
    phi, prompts = random_phi(learner, 2), make_prompts((1, 2))
    with silence():
        plain = decode(learner, phi, prompts, END, sampling)
        learner.base.model.generation_config.update(**OWN_DEFAULTS, eos_token_id=[plain[0][0][1], END])
        assert decode(learner, phi, prompts, END, sampling) == plain


@contextmanager
def silence():
    """Fails on warnings, and on what transformers logs."""
    said, logger = [], logging.getLogger("transformers")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    logger.removeHandler(handler)
    assert not said


class StopError(Exception):
    pass


def stop(_):
    raise StopError


def test_the_learner_is_left_as_it_was(learner, random_phi):
    phi, prompts = random_phi(learner, 2), make_prompts((1, 2))
    rows = build_rows([[[Rendered(one + one, len(one))] for one in each] for each in prompts])
    before = gradients(learner.losses, phi, rows)[1]
    config = learner.base.model.generation_config
    said, plain = config.to_dict(), learner.layers.plain_outputs
    state = torch.get_rng_state()
    decode(learner, {name: tensor.requires_grad_() for name, tensor in phi.items()}, prompts, END, SHORT)
    with pytest.raises(StopError):
        decode(learner, phi, prompts, END, DRAWN, stop)
    assert all(site.handed is None for site in learner.sites.values())
    assert learner.base.model.generation_config is config
    assert (config.to_dict(), learner.layers.plain_outputs) == (said, plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    after = gradients(learner.losses, {name: tensor.detach() for name, tensor in phi.items()}, rows)[1]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_prompts_are_no_answers(learner, random_phi):
    assert decode(learner, random_phi(learner, 2), [[], []], END, SHORT) == [[], []]


def test_what_does_not_fit_the_base_is_refused_before_it_starts(learner, random_phi, monkeypatch):
    phi = random_phi(learner, 1)
    limit = learner.base.model.config.max_position_embeddings
    monkeypatch.setattr(learner.base.model, "generate", lambda **_: pytest.fail("it started"))
    with pytest.raises(DecodeError, match=rf"a prompt of {limit - 11} tokens and 12 new ones .* context of {limit}; shorten the input"):
        decode(learner, phi, [[(1,), (1,) * (limit - 11)]], END, SHORT)
    with pytest.raises(DecodeError, match="a prompt has no token"):
        decode(learner, phi, [[(1,), ()]], END, SHORT)
    with pytest.raises(ValueError, match=r"prompts of 2 adapters for tensors of \[1\]"):
        decode(learner, phi, [[(1,)], [(1,)]], END, SHORT)


def test_the_whole_context_can_be_used(learner, random_phi):
    limit = learner.base.model.config.max_position_embeddings
    phi, prompt = random_phi(learner, 1), (1,) * (limit - 2)
    (answer,) = decode(learner, phi, [[prompt]], END, Sampling(max_new_tokens=2))[0]
    assert len(answer) == 2
    assert scored(learner, phi, [[prompt]], [[answer]]).greedy.all()


def test_the_output_layer_is_handed_its_input_in_one_stretch(learner, random_phi):
    """Of a slice, PyTorch's product makes a copy of the output layer's weights for every row."""
    head, seen = learner.base.model.get_output_embeddings(), []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].is_contiguous()))
    decode(learner, random_phi(learner, 1), [[(1, 2, 3), (4, 5, 6)]], END, SHORT)
    hook.remove()
    assert seen
    assert all(seen)
    assert not head._forward_pre_hooks


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ({"temperature": -0.1}, "temperature: expected 0"),
        ({"temperature": float("nan")}, "temperature: expected 0"),
        ({"temperature": float("inf")}, "temperature: expected 0"),
        ({"top_p": 0.0}, "top_p: expected more than 0"),
        ({"top_p": 1.1}, "top_p: expected more than 0"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(DecodeError, match=words):
        Sampling(**settings)
