"""What a faulty recipe's errors say: for every fault its dotted path, what stands there, and what to write instead."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from headstart.yaml12 import read_yaml, show

OTHER_NAMES = {
    "adapter.r": "lora_r lora_rank lora_dim lora_attention_dim rank",
    "adapter.lora_alpha": "alpha",
    "adapter.target_modules": "lora_target lora_targets lora_target_modules lora_target_linear lora_modules",
    "adapter.layers_to_transform": "lora_layers_to_transform peft_layers_to_transform layers_to_train",
    "base.id": "base_model base_model_name_or_path model model_id model_name model_name_or_path pretrained_model_name_or_path",
    "base.revision": "model_revision",
    "base.quantization": "load_in_4bit load_in_8bit quantization_bit quantization_config bnb_4bit_quant_type qlora quantize",
    "base.dtype": "torch_dtype model_dtype bf16 fp16 tf32 float16 precision bnb_4bit_compute_dtype pure_bf16 compute_dtype",
    "suite.source": "dataset datasets dataset_name dataset_dir dataset_path data_path train_file train_dataset data tasks_dir",
    "suite.max_length": "sequence_len cutoff_len max_seq_length max_seq_len seq_length block_size model_max_length context_length",
    "suite.tasks_per_step": "meta_batch_size tasks_per_batch batch_size micro_batch_size train_batch_size per_device_train_batch_size",
    "suite.task_micro_batch": "per_device_eval_batch_size eval_batch_size",
    "suite.support": "shots k_shot k_shots n_shot num_shots support_size n_support",
    "suite.query": "query_size n_query num_query",
    "suite.layout": "packing sample_packing eval_sample_packing neat_packing padding_free pad_to_sequence_len",
    "phases.N.steps": "max_steps num_train_epochs num_epochs epochs num_steps train_steps total_steps meta_steps outer_steps iterations",
    "phases.N.algorithm": "algo meta_algorithm method",
    "phases.N.inner.steps": "inner_steps adaptation_steps num_inner_steps fast_steps",
    "phases.N.inner.learning_rate": "inner_lr inner_learning_rate fast_lr adapt_lr alpha_lr",
    "phases.N.inner.learn_rates": "learn_lr learn_inner_lr meta_sgd learn_learning_rates",
    "phases.N.inner.precondition": "meta_curvature preconditioner preconditioning learn_preconditioner",
    "phases.N.inner.rule": "inner_optimizer inner_optim inner_rule",
    "phases.N.second_order_warmup": "derivative_order_annealing first_order_to_second_order_epoch second_order_start_epoch",
    "phases.N.multi_step_loss": "msl use_multi_step_loss_optimization multi_step_loss_num_epochs multi_step_loss_optimization",
    "phases.N.hvp": "hessian_vector_product hvp_mode second_order_method",
    "outer.learning_rate": "lr meta_lr outer_lr meta_learning_rate outer_learning_rate",
    "outer.optim": "optimizer optimiser meta_optimizer",
    "outer.lr_scheduler_type": "lr_scheduler lr_schedule scheduler meta_scheduler",
    "outer.warmup_steps": "warmup_ratio warmup num_warmup_steps lr_warmup_steps",
    "outer.max_grad_norm": "gradient_clip_val gradient_clipping grad_clip clip_grad_norm max_norm_grad",
    "outer.weight_decay": "wd l2",
    "outer.proximal": "proximal_mu prox_mu fedprox_mu prox_lambda",
    "outer.ema_decay": "ema use_ema model_ema model_ema_decay ema_rate",
    "run.output_dir": "out_dir save_dir output_path logging_dir save_path default_root_dir run_name",
    "run.eval_steps": "eval_strategy evaluation_strategy evals_per_epoch eval_interval logging_steps eval_every",
    "run.save_steps": "save_strategy saves_per_epoch save_interval save_every checkpoint_every",
    "run.save_total_limit": "save_limit max_checkpoints keep_last_n keep_checkpoints",
    "run.gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing gradient_checkpointing_kwargs recompute",
    "run.compile": "torch_compile use_torch_compile torch_compile_backend compile_model",
    "run.report_to": "use_tensorboard use_wandb wandb wandb_project wandb_entity wandb_name use_mlflow mlflow_tracking_uri logger loggers",
    "seed": "random_seed data_seed manual_seed",
}
"""Our dotted path -> what Axolotl, TRL, transformers, PEFT, LLaMA-Factory, torchtune, LitGPT and meta-learning code call it."""

VALUES = {
    "load_in_4bit": "base.quantization: nf4",
    "load_in_8bit": "base.quantization: nf4 (8 bit is not supported)",
    "quantization_bit": "base.quantization: nf4 for 4 bit (8 bit is not supported)",
    "qlora": "base.quantization: nf4",
    "bf16": "base.dtype: bfloat16",
    "fp16": "base.dtype: float16",
    "lora_target_linear": "adapter.target_modules: all-linear",
    "packing": "suite.layout: packed",
    "sample_packing": "suite.layout: packed",
    "num_train_epochs": "phases.N.steps (a phase counts steps, not epochs)",
    "num_epochs": "phases.N.steps (a phase counts steps, not epochs)",
    "epochs": "phases.N.steps (a phase counts steps, not epochs)",
    "warmup_ratio": "outer.warmup_steps (a number of steps)",
    "use_ema": "outer.ema_decay (a number below 1, 0 for none)",
    "first_order": "phases.N.algorithm: fomaml for first order, maml for second",
    "second_order": "phases.N.algorithm: maml for second order, fomaml for first",
    "order": "phases.N.algorithm: fomaml for first order, maml for second",
    "derivative_order_annealing": "phases.N.second_order_warmup (a share of the phase)",
    "first_order_to_second_order_epoch": "phases.N.second_order_warmup (a share of the phase)",
    "multi_step_loss_num_epochs": "phases.N.multi_step_loss (a share of the phase)",
}
"""Where the name alone does not tell what to write: another tool's key -> what to write."""

NOT_SUPPORTED = {
    "resume_from_checkpoint": "a stopped run goes on with the command's option --resume",
    "auto_resume_from_checkpoints": "a stopped run goes on with the command's option --resume",
    "resume": "a stopped run goes on with the command's option --resume",
    "stage": "a recipe's phases say what is trained, and how",
    "overwrite_output_dir": "a finished run is never overwritten; name another run.output_dir",
    "dropout": "an adapter has no dropout, so that a task's gradient is a function of its rows",
    "gradient_accumulation_steps": "raise suite.tasks_per_step; suite.task_micro_batch says how many tasks are computed at a time",
    "lora_dropout": "an adapter has no dropout, so that a task's gradient is a function of its rows",
    "bias": "biases are not adapted",
    "use_dora": "only plain LoRA is learned",
    "peft_use_dora": "only plain LoRA is learned",
    "use_rslora": "only plain LoRA is learned; scale with adapter.lora_alpha",
    "peft_use_rslora": "only plain LoRA is learned; scale with adapter.lora_alpha",
    "modules_to_save": "only LoRA sites are trained",
    "lora_modules_to_save": "only LoRA sites are trained",
    "additional_target": "only LoRA sites are trained",
    "rank_pattern": "every site has the rank adapter.r",
    "alpha_pattern": "every site has the scale of adapter.lora_alpha",
    "init_lora_weights": "the initialisation is what is learned; it starts as PEFT's default",
    "peft_init_lora_weights": "the initialisation is what is learned; it starts as PEFT's default",
    "loraplus_lr_ratio": "phases.N.inner.learn_rates learns a rate for A and for B",
    "finetuning_type": "an adapter is always a LoRA",
    "peft_type": "an adapter is always a LoRA",
    "task_type": "a base is always a causal language model",
    "lr_scheduler_kwargs": "outer.lr_scheduler_type and outer.warmup_steps say all that there is to say of the rate's course",
    "chat_template": "the template is the base's own, in its tokenizer",
    "template": "the template is the base's own, in its tokenizer",
    "train_on_inputs": "only answers are trained on",
    "train_on_prompt": "only answers are trained on",
    "val_set_size": "a suite says in its splits.json which tasks validate",
    "deepspeed": "ranks are started with Accelerate or torchrun; only the adapter's gradient is reduced",
    "fsdp": "ranks are started with Accelerate or torchrun; only the adapter's gradient is reduced",
    "flash_attention": "attention is PyTorch's scaled_dot_product_attention",
    "flash_attn": "attention is PyTorch's scaled_dot_product_attention",
    "attn_implementation": "attention is PyTorch's scaled_dot_product_attention",
    "trust_remote_code": "code from a model hub is never run",
    "push_to_hub": "a recipe trains and does not publish",
}
"""What other tools have and we do not -> why, or what does that job."""

_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "too_short": "a list of at least one item",
    "dict_type": "a mapping of keys",
    "finite_number": "a finite number",
}


def known_paths(schema: Mapping[str, Any]) -> list[str]:
    """The dotted path of every key of a JSON schema, sections included; a list's items are `N`."""
    definitions = schema.get("$defs", {})

    def walk(node: Mapping[str, Any], path: str) -> Iterable[str]:
        if "$ref" in node:
            yield from walk(definitions[node["$ref"].rsplit("/", 1)[-1]], path)
        for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from walk(option, path)
        if "items" in node:
            yield from walk(node["items"], f"{path}.N")
        for key, child in node.get("properties", {}).items():
            own = f"{path}.{key}".lstrip(".")
            yield own
            yield from walk(child, own)

    return list(dict.fromkeys(walk(schema, "")))


def known_algorithms(schema: Mapping[str, Any]) -> list[str]:
    """The algorithms that a phase can name."""
    properties = (part.get("properties", {}) for part in schema.get("$defs", {}).values())
    return [each["algorithm"]["const"] for each in properties if "const" in each.get("algorithm", {})]


def explain(error: ValidationError, content: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """One line for every faulty place in a content that does not fit its JSON schema, in pydantic's order."""
    faults: dict[str, list[dict[str, Any]]] = {}
    for item in error.errors():
        fault = dict(item)
        # pydantic counts a list's faulty items as missing ones
        if fault["type"] != "too_short" or not fault["input"]:
            faults.setdefault(_path(fault, content), []).append(fault)
    # of a value that may be text or a list, the list's faulty item says it all
    places = [path for path in faults if not any(other.startswith(f"{path}.") for other in faults)]
    return [_line(path, faults[path], known_paths(schema), known_algorithms(schema)) for path in places]


def _path(fault: Mapping[str, Any], content: Any) -> str:
    """The dotted path as the user wrote it: what pydantic adds for the branches of a union leads nowhere in the content."""
    node, parts = content, []
    for part in fault["loc"]:
        inside = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        if inside:
            node = node[part]
        if inside or (fault["type"] == "missing" and part is fault["loc"][-1]):
            parts.append(str(part))
    return ".".join(parts)


def _line(path: str, faults: list[dict[str, Any]], paths: list[str], algorithms: list[str]) -> str:
    first = faults[0]
    match first["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key{_hint(path, paths)}"
        case "missing":
            return f"{path}: missing; it has no default"
        case "value_error":
            return f"{path}: {first['ctx']['error']}"
        case "union_tag_not_found":
            return f"{path}.algorithm: missing; write one of {', '.join(algorithms)}"
        case "union_tag_invalid":
            return f"{path}.algorithm: {_unknown_algorithm(first['ctx']['tag'], algorithms)}"
        case "too_short":
            return f"{path}: an empty list; write at least one item"
        case "model_type" | "dataclass_type":
            keys = ", ".join(_children(path, paths))
            return f"{path}: expected a section of keys ({keys}), got {_got(first['input'])}"
    wanted = " or ".join(dict.fromkeys(_wanted(fault) for fault in faults))
    return f"{path}: expected {wanted}, got {_got(first['input'])}{_mend(first['input'], faults)}"


def _wanted(fault: Mapping[str, Any]) -> str:
    context = fault.get("ctx", {})
    match fault["type"]:
        case "literal_error":
            return str(context["expected"]).replace("'", "")
        case "greater_than":
            return f"a number greater than {context['gt']:g}"
        case "greater_than_equal":
            return f"a number of at least {context['ge']:g}"
        case "less_than":
            return f"a number less than {context['lt']:g}"
        case "less_than_equal":
            return f"a number of at most {context['le']:g}"
    return _TYPES.get(fault["type"]) or str(fault["msg"])


def _got(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict | list):
        return "a mapping of keys" if isinstance(value, dict) else f"the list {show(value)}"
    return f"the text {show(value)}" if isinstance(value, str) else show(value)


def _mend(value: Any, faults: Sequence[Mapping[str, Any]]) -> str:
    """How to write what was probably meant."""
    wanted = {fault["type"] for fault in faults}
    choices = [each for fault in faults for each in re.findall(r"'([^']*)'", str(fault.get("ctx", {}).get("expected", "")))]
    if near := difflib.get_close_matches(str(value), choices, 1):
        return f"; did you mean {near[0]}?"
    if not isinstance(value, str):
        return f"; write it in quotes: '{show(value)}'" if wanted == {"string_type"} and isinstance(value, bool | int | float) else ""
    if "bool_type" in wanted and value.lower() in ("yes", "on", "no", "off", "true", "false"):
        return f"; write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}, without quotes"
    if wanted & {"int_type", "float_type"} and _is_number(value):
        return f"; write it without quotes: {value.strip()}"
    return f"; write it as a list: [{value}]" if "tuple_type" in wanted else ""


def _is_number(text: str) -> bool:
    try:
        return isinstance(read_yaml(text), int | float)
    except ValueError:
        return False


def _unknown_algorithm(name: str, algorithms: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), algorithms, 1)
    return f"unknown algorithm {name!r}{f'; did you mean {near[0]}?' if near else ''}; there are {', '.join(algorithms)}"


def _children(path: str, paths: Iterable[str]) -> list[str]:
    """The keys directly below a path."""
    start = f"{_general(path)}." if path else ""
    return [known.removeprefix(start) for known in paths if known.startswith(start) and "." not in known.removeprefix(start)]


def _hint(path: str, paths: list[str]) -> str:
    """Where an unknown key belongs, what it is called here, or why there is none; nothing where none of this is known."""
    section, _, key = path.rpartition(".")
    plain = key.lower().replace("-", "_")
    own = [known for known in paths if known.rpartition(".")[2] == plain]
    if own and _general(path) in own:
        return "; this phase's algorithm does not have it"
    if own:
        return f"; it belongs to {' or '.join(_special(known, path) for known in own)}"
    if plain in NOT_SUPPORTED:
        return f"; not supported: {NOT_SUPPORTED[plain]}; remove it"
    named = VALUES.get(plain) or next((ours for ours, theirs in OTHER_NAMES.items() if plain in theirs.split()), None)
    if named:
        return f"; here it is {_special(named, path)}"
    beside = difflib.get_close_matches(plain, _children(section, paths), 1, 0.7)
    if beside:
        return f"; did you mean {'.'.join(filter(None, (section, beside[0])))}?"
    near = difflib.get_close_matches(plain, [known.rpartition(".")[2] for known in paths], 1, 0.6)
    places = [known for known in paths if near and known.rpartition(".")[2] == near[0]]
    return f"; did you mean {' or '.join(_special(known, path) for known in places)}?" if places else ""


def _general(path: str) -> str:
    """The path with every list's index as `N`."""
    return ".".join("N" if part.isdecimal() else part for part in path.split("."))


def _special(known: str, path: str) -> str:
    """A known path, its `phases.N` put as the phase that `path` is in, if it is in one."""
    parts = path.split(".")
    return known.replace("phases.N", f"phases.{parts[1]}") if parts[0] == "phases" and len(parts) > 2 else known
