"""A saved meta-adapter in other trainers: their loss before the first step is ours, and they go on from it."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from headstart.adapter.stored import read_adapter
from headstart.algorithms.inner import expand
from headstart.tasks.rows import Rendered, build_rows
from headstart.tasks.task import Example

# answers of as many tokens, so that the mean over a batch's tokens, which they take, is the mean over examples
COUNT = 4


@pytest.fixture
def rows(toy_suite):
    """Examples of one instruction whose answers have three tokens and the end token."""
    return toy_suite.tasks["upper"].examples[:COUNT]


@pytest.fixture
def model(adapter, tiny_folder):
    """Loads the adapter on the base as any user of PEFT does."""

    def load(**options):
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), adapter, **options)

    return load


@pytest.fixture
def arguments(tmp_path):
    return {
        "output_dir": str(tmp_path / "trained"),
        "per_device_train_batch_size": COUNT,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def our_loss(meta, passes, rows):
    rendered = [[one] for one in passes.batcher.renderer.render("Shout.", rows)]
    return loss_of(meta, passes, rendered)


def loss_of(meta, passes, rendered):
    return float(passes.learner.losses(expand(meta.theta, 1), build_rows([rendered])))


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def require_trained_on(trainer, meta, folder):
    """Losses fell, and what was saved is a plain adapter that has moved."""
    losses = losses_of(trainer)
    assert losses[-1] < losses[0]
    trainer.save_model(folder)
    saved = read_adapter(folder)
    assert saved.phi.keys() == meta.theta.keys()
    assert all(not torch.equal(saved.phi[name], meta.theta[name]) for name in meta.theta)


def bare(model, arguments, data, tokenizer):
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    trainer = Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=data, data_collator=collator)
    trainer.train()
    return trainer


def sft(model, arguments, data, tokenizer):
    """TRL's trainer; where `arguments` say nothing, its own defaults, gradient checkpointing among them."""
    trl = pytest.importorskip("trl")
    trainer = trl.SFTTrainer(
        model=model, args=trl.SFTConfig(**arguments), train_dataset=Dataset.from_list(data), processing_class=tokenizer
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("train", [bare, sft])
def test_another_trainer_starts_at_our_loss_and_goes_on(train, meta, passes, model, rows, arguments, tmp_path, tokenizer):
    data = passes.batcher.renderer.training_rows("Shout.", rows)
    trainer = train(model(is_trainable=True), arguments, data, tokenizer)
    assert losses_of(trainer)[0] == pytest.approx(our_loss(meta, passes, rows), rel=1e-5)
    require_trained_on(trainer, meta, tmp_path / "saved")


@pytest.mark.parametrize("train", [bare, sft])
def test_over_answers_of_several_lengths_theirs_is_the_mean_over_tokens(train, meta, passes, model, rows, arguments, tokenizer):
    """Ours weighs examples alike, theirs tokens: a long answer counts for more."""
    rows = [rows[0], Example(rows[1].input, "a longer answer")]
    trainer = train(model(is_trainable=True), arguments, passes.batcher.renderer.training_rows("Shout.", rows), tokenizer)
    tokens = [len(one.ids) - one.answer for one in passes.batcher.renderer.render("Shout.", rows)]
    each = [our_loss(meta, passes, [row]) for row in rows]
    mean = sum(loss * count for loss, count in zip(each, tokens, strict=True)) / sum(tokens)
    assert losses_of(trainer)[0] == pytest.approx(mean, rel=1e-5)
    assert losses_of(trainer)[0] != pytest.approx(our_loss(meta, passes, rows), rel=1e-3)


def test_trl_trains_on_what_the_template_puts_behind_a_chats_end_token(meta, passes, model, rows, arguments, tokenizer):
    """The same rows as chats: its first loss is ours with that line end as one more label, and so not ours."""
    chats = [
        {
            "prompt": [{"role": "user", "content": f"Shout.\n{row.input}"}],
            "completion": [{"role": "assistant", "content": row.output}],
        }
        for row in rows
    ]
    trainer = sft(model(is_trainable=True), arguments, chats, tokenizer)
    (line_end,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    rendered = passes.batcher.renderer.render("Shout.", rows)
    longer = [[Rendered((*one.ids, line_end), one.answer)] for one in rendered]
    assert losses_of(trainer)[0] == pytest.approx(loss_of(meta, passes, longer), rel=1e-5)
    assert losses_of(trainer)[0] != pytest.approx(our_loss(meta, passes, rows), rel=1e-3)


def test_an_adapter_loaded_without_is_trainable_does_not_train(model):
    assert not [name for name, parameter in model().named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name, parameter in model(is_trainable=True).named_parameters() if parameter.requires_grad)


def test_without_is_trainable_the_bare_trainer_fails(passes, model, rows, arguments, tokenizer):
    with pytest.raises(RuntimeError, match="does not require grad"):
        bare(model(), arguments, passes.batcher.renderer.training_rows("Shout.", rows), tokenizer)


@pytest.mark.parametrize("train", [bare, sft])
def test_without_is_trainable_gradient_checkpointing_hides_that_nothing_trains(train, passes, model, rows, arguments, tokenizer):
    """The base's inputs then ask for gradients, so that going back fails nowhere; TRL checkpoints by default."""
    frozen = model()
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    told = arguments if train is sft else {**arguments, "gradient_checkpointing": True}
    trainer = train(frozen, told, passes.batcher.renderer.training_rows("Shout.", rows), tokenizer)
    losses = losses_of(trainer)
    assert len(losses) == arguments["max_steps"]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
