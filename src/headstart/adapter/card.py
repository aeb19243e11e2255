"""The model card: what the adapter is, how it was made and measured, how to use it; nothing that was not recorded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from headstart.files import write_atomically
from headstart.tasks.task import user_turn

_BODY = """---
{front}
---

# {title}

A LoRA adapter *initialisation* for `{base}`, learned with headstart over {tasks} instruction tasks of the suite `{suite}`:
fine-tuning to a new task starts here instead of at zero. It is a plain PEFT adapter.

## Use

Adapt it to a few examples of a task, with the rule it was learned for:

    headstart adapt THIS_FOLDER --data mine.jsonl --steps 10

or warm-start any PEFT trainer from it:

    from peft import PeftModel
    model = PeftModel.from_pretrained(base_model, "THIS_FOLDER", is_trainable=True)

The user's turn of the chat is `{user_turn}` (the input alone where there is no instruction), through {template}. A client of a server
that speaks OpenAI's protocol sends

    {request}

## Weights

Trained {evaluated}on the weights of `{base}` loaded from `{source}` (fingerprint `{fingerprint}`),
quantisation `{quantization}`, `{dtype}`.
{variant}
## Adaptation

Rule `{rule}`, {steps} inner steps in training, {rates}.

## Training

{phases}
Cost: {seconds:.0f} s on {machine}, {pflops:.2f} PFLOP counted, seed {seed}. {command}
{data}
{results}"""

_BUNDLED = """
These are Q4_1 weights, dequantised: not the ones the hub serves under this id. On those the adapter is untested.
"""


def write_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `README.md` from what `headstart.json` says."""
    record, base, rule = about["record"], about["base"], about["adaptation"]
    results = _results(folder, record)
    text = _BODY.format(
        front=_front_matter(base["id"]),
        title=record.get("name", "headstart adapter"),
        base=base["id"],
        tasks=record.get("suite", {}).get("training_tasks", "?"),
        suite=record.get("suite", {}).get("name", "?"),
        user_turn=record.get("user_turn", "?").replace("\n", "\\n"),
        template=_template(record),
        request=_request(record.get("user_turn", "?"), record),
        evaluated="and evaluated " if results and not record["evaluation"].get("base_variant") else "",
        **{key: base[key] for key in ("source", "fingerprint", "quantization", "dtype")},
        variant=_BUNDLED if base["source"] == "bundled" else "",
        rule=rule["rule"],
        steps=rule["steps"],
        rates=_rates(about),
        phases="".join(f"- {phase['algorithm']}: {phase['steps']} steps\n" for phase in record.get("phases", ())),
        seconds=record.get("cost", {}).get("seconds", 0.0),
        machine=record.get("machine", "?"),
        pflops=record.get("cost", {}).get("flops", 0) / 1e15,
        seed=record.get("seed", "?"),
        command=_command(record),
        data=_data(record),
        results=results,
    )
    write_atomically(folder / "README.md", text.encode())


_ADAPTED = """---
{front}
---

# {title}

A LoRA adapter of `{base}` for one task, adapted with headstart in {steps} steps{rows}. It is a plain PEFT adapter:

    from peft import PeftModel
    model = PeftModel.from_pretrained(base_model, "THIS_FOLDER")

## Use

The user's turn of the chat is `{user_turn}`, through {template}, where the instruction is

    {instruction}

A client of a server that speaks OpenAI's protocol sends

    {request}

{labels}{measured}
## Weights

Adapted on the weights of `{base}` loaded from `{source}` (fingerprint `{fingerprint}`), quantisation `{quantization}`, `{dtype}`.
{variant}"""


def write_adapted_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the `README.md` of an adapter that was adapted to one task, from what `headstart.json` says."""
    base, record = about["base"], about["record"]
    text = _ADAPTED.format(
        front=_front_matter(base["id"]),
        title=record.get("name", "headstart adapter"),
        base=base["id"],
        steps=about["steps"],
        rows=f" on {record['rows']} examples" if "rows" in record else "",
        user_turn=about["user_turn"].replace("\n", "\\n") if about["instruction"] else "{input}",
        template=_template(about),
        request=_request(user_turn(about["instruction"], "{input}"), about),
        instruction=about["instruction"].replace("\n", "\n    ") or "(there is none)",
        labels=f"It answers with one of: {', '.join(about['labels'])}.\n" if about["labels"] else "",
        measured=_measured(record.get("results", {}).get("measured")),
        **{key: base[key] for key in ("source", "fingerprint", "quantization", "dtype")},
        variant=_BUNDLED if base["source"] == "bundled" else "",
    )
    write_atomically(folder / "README.md", text.encode())


def _template(about: Mapping[str, Any]) -> str:
    return (
        "the plain template in `headstart.json` (`chat_template`), as the base has none"
        if "chat_template" in about
        else "the base's own chat template"
    )


def _request(content: str, about: Mapping[str, Any]) -> str:
    """The chat request that gives the tokens of training, as JSON."""
    told = {key: about[key] for key in ("chat_template_kwargs", "chat_template") if about.get(key)}
    return json.dumps({"messages": [{"role": "user", "content": content}], **told}, ensure_ascii=False)


def _measured(measured: Mapping[str, Any] | None) -> str:
    """What was measured before and after, or nothing."""
    if not measured:
        return ""
    sides = "".join(
        f"| {name} | {side['steps']} | {side['loss']:.3f} | {side['accuracy']:.1%} |\n" for name, side in measured["sides"].items()
    )
    head = f"| | steps | loss | accuracy ({measured['accuracy']}) |\n| --- | --- | --- | --- |\n"
    return f"\n## Measured\n\nOn {measured['how']}.\n\n{head}{sides}"


def _front_matter(base: str) -> str:
    data = ModelCardData(base_model=base, library_name="peft", tags=["headstart", "lora", "meta-learning"], pipeline_tag="text-generation")
    return str(data.to_yaml())


def _rates(about: Mapping[str, Any]) -> str:
    """What multiplies the rule's directions."""
    if not about["learned_rates"]:
        return f"at rate {about['adaptation']['learning_rate']:g}"
    learned = "with a learned rate for every tensor and step"
    return f"{learned}, times a learned matrix for every tensor that mixes ranks" if about.get("preconditioned") else learned


def _command(record: Mapping[str, Any]) -> str:
    """How the run is repeated."""
    told = "The recipe, every key spelled out, is `record.recipe` in `headstart.json`"
    if not record.get("command"):
        return f"{told}.\n"
    version = record.get("versions", {}).get("headstart", "?")
    revision = f" at commit `{record['commit']}`" if record.get("commit") else ""
    return f"{told}; it was run by\n\n    {record['command']}\n\nwith headstart {version}{revision}.\n"


def _data(record: Mapping[str, Any]) -> str:
    """The licences of what was trained on, or nothing where they were not recorded."""
    rows = record.get("suite", {}).get("data")
    if not rows:
        return ""
    lines = "".join(f"| {row['licence']} | {row['data_terms'] or '-'} | {row['tasks']} | {', '.join(row['datasets'])} |\n" for row in rows)
    head = "| licence | terms of the underlying data | tasks | datasets |\n| --- | --- | --- | --- |\n"
    return (
        f"\n## Training data\n\nAs the tasks' sources name them; tasks are counted in every version that was trained on.\n\n{head}{lines}"
    )


def _results(folder: Path, record: Mapping[str, Any]) -> str:
    """The evaluation's table and curve, or nothing where none was run."""
    if "evaluation" not in record:
        return ""
    evaluation = record["evaluation"]
    suite = evaluation["suite"]
    other, variant = evaluation.get("base_variant"), ""
    kinds = "kinds of tasks" if suite["split"] in ("meta_validation", "meta_test") else "tasks"
    if other:
        variant = (
            f"Measured on other weights than it was trained on: from `{other['source']}`, fingerprint `{other['fingerprint']}`, "
            f"quantisation `{other.get('quantization', '?')}`. "
        )
    picture = "![loss and accuracy against adaptation steps](evaluation/curves.png)\n\n"
    return (
        f"## Evaluation\n\nOn `{suite['split']}` of the suite `{suite['name']}`, {kinds} that training never saw; all of it in "
        f"`evaluation/`. {variant}\n\n{evaluation['table']}\n{picture if (folder / 'evaluation' / 'curves.png').exists() else ''}"
    )
