"""A saved meta-adapter in other trainers: their loss before the first step is ours, and they go on from it."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from headstart.adapter.stored import read_adapter
from headstart.algorithms.inner import expand
from headstart.tasks.rows import Rendered, build_rows

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


def first_loss(trainer):
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def require_trained_on(trainer, meta, folder):
    """Losses fell, and what was saved is a plain adapter that has moved."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trainer.save_model(folder)
    saved = read_adapter(folder)
    assert saved.phi.keys() == meta.theta.keys()
    assert all(not torch.equal(saved.phi[name], meta.theta[name]) for name in meta.theta)


def test_the_bare_trainer_starts_at_our_loss_and_goes_on(meta, passes, model, rows, arguments, tmp_path, tokenizer):
    data = passes.batcher.renderer.training_rows("Shout.", rows)
    trainer = Trainer(
        model=model(is_trainable=True),
        args=TrainingArguments(**arguments),
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    trainer.train()
    assert first_loss(trainer) == pytest.approx(our_loss(meta, passes, rows), rel=1e-4)
    require_trained_on(trainer, meta, tmp_path / "saved")


def sft(model, arguments, data, tokenizer):
    trl = pytest.importorskip("trl")
    options = {**arguments, "gradient_checkpointing": False, "completion_only_loss": None}
    trainer = trl.SFTTrainer(model=model, args=trl.SFTConfig(**options), train_dataset=Dataset.from_list(data), processing_class=tokenizer)
    trainer.train()
    return trainer


def test_trls_trainer_starts_at_our_loss_and_goes_on(meta, passes, model, rows, arguments, tmp_path, tokenizer):
    data = passes.batcher.renderer.training_rows("Shout.", rows)
    trainer = sft(model(is_trainable=True), arguments, data, tokenizer)
    assert first_loss(trainer) == pytest.approx(our_loss(meta, passes, rows), rel=1e-4)
    require_trained_on(trainer, meta, tmp_path / "saved")


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
    assert first_loss(trainer) == pytest.approx(loss_of(meta, passes, longer), rel=1e-4)
    assert first_loss(trainer) != pytest.approx(our_loss(meta, passes, rows), rel=1e-3)


def test_an_adapter_loaded_without_is_trainable_does_not_train(model):
    assert not [name for name, parameter in model().named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name, parameter in model(is_trainable=True).named_parameters() if parameter.requires_grad)
