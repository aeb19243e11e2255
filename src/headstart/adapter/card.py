"""The model card: what the adapter is, how it was made and measured, how to use it; nothing that was not recorded."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from headstart.files import write_atomically
from headstart.model.four_bit import NF4
from headstart.tasks.task import USER_TURN, user_turn

CARDS = Path(__file__).parent / "cards"
THIS_FOLDER = "THIS_FOLDER"
"""Stands in a card where the name would, of what has none yet."""

BUNDLED = """
These are Q4_1 weights, dequantised: not the ones the hub serves under this id. On those the adapter is untested.
"""


@dataclass(frozen=True)
class Publication:
    """What a card says beside what was recorded, once an adapter has a place.

    Args:
        place: what others load it by, `OWNER/NAME`.
        license: its licence, by the hub's identifier.
        datasets: ids on the hub of what it was trained on.
        results: what was measured, for the card's model index.
    """

    place: str = THIS_FOLDER
    license: str | None = None
    datasets: Sequence[str] = ()
    results: Sequence[EvalResult] = field(default=())


def write_card(folder: Path, about: Mapping[str, Any], publication: Publication | None = None) -> None:
    """Write the `README.md` of a meta-adapter from what `headstart.json` says."""
    record, base, to = about["record"], about["base"], publication or Publication()
    evaluation = record.get("evaluation")
    write_atomically(
        folder / "README.md",
        _rendered(
            "meta_adapter",
            _front_matter(base["id"], record, to, "meta-learning"),
            **_common(about, record, to),
            suite={"training_tasks": "?", "name": "?", **record.get("suite", {})},
            turn=record.get("user_turn", "?"),
            headline=evaluation["headline"] if evaluation else None,
            stock=stock_code(base),
            template=_template(record),
            request=_request(record.get("user_turn", "?"), record),
            evaluated_alike=evaluation and not evaluation.get("base_variant"),
            rule=about["adaptation"],
            rates=_rates(about),
            phases=record.get("phases", ()),
            cost=_cost(record),
            seed=record.get("seed", "?"),
            command=_command(record),
            data=record.get("suite", {}).get("data"),
            evaluation=evaluation,
            kinds=_kinds(evaluation),
            variant=_variant(evaluation),
            curve=(folder / "evaluation" / "curves.png").exists(),
        ),
    )


def write_adapted_card(folder: Path, about: Mapping[str, Any], publication: Publication | None = None) -> None:
    """Write the `README.md` of an adapter that was adapted to one task, from what `headstart.json` says."""
    base, record, to = about["base"], about["record"], publication or Publication()
    write_atomically(
        folder / "README.md",
        _rendered(
            "adapted_adapter",
            _front_matter(base["id"], record, to, "few-shot"),
            **_common(about, record, to),
            steps=about["steps"],
            rows=f" on {record['rows']} examples" if "rows" in record else "",
            stock=stock_code(base),
            turn=about.get("user_turn", USER_TURN) if about["instruction"] else "{input}",
            template=_template(about),
            request=_request(user_turn(about["instruction"], "{input}"), about),
            instruction=about["instruction"] or "(there is none)",
            labels=about["labels"],
            measured=record.get("results", {}).get("measured"),
        ),
    )


def write_merged_card(folder: Path, about: Mapping[str, Any], difference: str) -> None:
    """Write the `README.md` of a base with an adapter merged into it."""
    text = _rendered(
        "merged_model",
        _front_matter(about["base"]["id"], {}, Publication(), "merged", library="transformers", relation="finetune"),
        **_common(about, {"name": about["adapter"]}, Publication()),
        adapter=about["adapter"],
        onto=about["onto"],
        difference=difference,
        instruction=about["instruction"],
    )
    write_atomically(folder / "README.md", text)


def stock_code(base: Mapping[str, Any]) -> str:
    """Python that loads a base as an adapter was trained on it, by transformers alone."""
    # JSON's texts are Python's, so that nothing in a name can become code
    dtype, name = f"torch.{base['dtype']}", json.dumps(base["id"])
    revision = f", revision={json.dumps(base['revision'])}" if base.get("revision") else ""
    imports = ["import torch", "from peft import PeftModel"]
    if base["quantization"] == "none":
        call = f"base = AutoModelForCausalLM.from_pretrained({name}, dtype={dtype}{revision})"
        return "\n".join([*imports, "from transformers import AutoModelForCausalLM", "", call])
    settings = ", ".join(f"{key}={json.dumps(value).replace('true', 'True')}" for key, value in NF4.items())
    return "\n".join(
        [
            *imports,
            "from transformers import AutoModelForCausalLM, BitsAndBytesConfig",
            "",
            "quantization = BitsAndBytesConfig(",
            f"    {settings}, bnb_4bit_compute_dtype={dtype}",
            ")",
            f"base = AutoModelForCausalLM.from_pretrained({name}, quantization_config=quantization, dtype={dtype}{revision})",
        ]
    )


def _rendered(kind: Literal["meta_adapter", "adapted_adapter", "merged_model"], front: ModelCardData, **told: Any) -> bytes:
    ways: dict[str, Any] = {"plain": plain, "code": code, "block": block}
    return str(ModelCard.from_template(front, template_path=str(CARDS / f"{kind}.md"), **ways, **told)).encode()


def plain(text: object) -> str:
    """A text as one line of prose or as a table's cell, without HTML, links or code in it."""
    return re.sub(r"([\\`|<]|(?<=\])\()", r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    r"""A text as a code span of one line, line ends as `\n`; a backtick, which would end the span, becomes an apostrophe."""
    line = " ".join(str(text).replace("\n", r"\n").split())
    return "`" + line.replace("`", "'") + "`"


def block(text: str) -> str:
    """A text as a block of code, every line of it."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _common(about: Mapping[str, Any], record: Mapping[str, Any], to: Publication) -> dict[str, Any]:
    base = about["base"]
    return {
        "name": record.get("name", "headstart adapter"),
        "base": base,
        "place": to.place,
        "bundled": BUNDLED if base["source"] == "bundled" else "",
    }


def _front_matter(
    base: str, record: Mapping[str, Any], to: Publication, kind: str, *, library: str = "peft", relation: str = "adapter"
) -> ModelCardData:
    return ModelCardData(
        base_model=base,
        base_model_relation=relation,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["headstart", "lora", kind],
        license=to.license,
        datasets=list(to.datasets) or None,
        model_name=record.get("name", "headstart adapter") if to.results else None,
        eval_results=list(to.results) or None,
    )


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


def _rates(about: Mapping[str, Any]) -> str:
    """What multiplies the rule's directions."""
    if not about["learned_rates"]:
        return f"at rate {about['adaptation']['learning_rate']:g}"
    learned = "with a learned rate for every tensor and step"
    return f"{learned}, times a learned matrix for every tensor that mixes ranks" if about.get("preconditioned") else learned


def _cost(record: Mapping[str, Any]) -> str:
    cost = record.get("cost", {})
    return f"{cost.get('seconds', 0.0):.0f} s on {plain(record.get('machine', '?'))}, {cost.get('flops', 0) / 1e15:.2f} PFLOP counted"


def _command(record: Mapping[str, Any]) -> str:
    """How the run is repeated."""
    told = "The recipe, every key spelled out, is `record.recipe` in `headstart.json`"
    if not record.get("command"):
        return f"{told}."
    version = plain(record.get("versions", {}).get("headstart", "?"))
    revision = f" at commit {code(record['commit'])}" if record.get("commit") else ""
    return f"{told}; it was run by\n\n{block(record['command'])}\n\nwith headstart {version}{revision}."


def _kinds(evaluation: Mapping[str, Any] | None) -> str:
    unseen = evaluation and evaluation["suite"]["split"] in ("meta_validation", "meta_test")
    return "kinds of tasks" if unseen else "tasks"


def _variant(evaluation: Mapping[str, Any] | None) -> str:
    """Which other weights the adapter was measured on, or nothing."""
    other = evaluation.get("base_variant") if evaluation else None
    if not other:
        return ""
    return (
        f"Measured on other weights than it was trained on: from {code(other.get('source', '?'))}, fingerprint "
        f"{code(other.get('fingerprint', '?'))}, quantisation {code(other.get('quantization', '?'))}. "
    )
