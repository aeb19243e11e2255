"""The command line: reads what the user gave, calls the library, prints.

Exit codes: 0 done, 1 training diverged or a check found an error, 2 a mistake in what was given, 130 stopped by Ctrl-C.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from headstart.bases import BUNDLED_ID, BaseSpec
from headstart.errors import HeadstartError
from headstart.shipped import shipped_adapters, shipped_recipes

if TYPE_CHECKING:
    from headstart.recipe import Recipe
    from headstart.training.equal_compute import ControlOf

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Learn LoRA initialisations over tasks.")
SPLITS = ("meta_train", "meta_validation", "meta_test")
ARMS = (
    *("zero_shot", "icl", "random", "eva", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"),
    *("multitask", "multitask_rates", "meta_adamw", "meta"),
)
ENGINES = ("vllm", "sglang", "llama.cpp", "peft")
DTYPES = ("float32", "bfloat16", "float16")
TIERS, QUANTIZATIONS = ("quick", "standard", "full"), ("none", "nf4")
DIVERGED = FOUND = 1
MISTAKE, STOPPED = 2, 130
FILE_WIDTH = 132


def _recipes(incomplete: str) -> list[str]:
    """Shipped recipes that a shell may complete to; nothing here imports torch, for which no shell should wait."""
    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def _adapters(incomplete: str) -> list[str]:
    return [name for name in shipped_adapters() if name.startswith(incomplete)]


def _splits(incomplete: str) -> list[str]:
    return [name for name in SPLITS if name.startswith(incomplete)]


def _tiers(incomplete: str) -> list[str]:
    return [name for name in TIERS if name.startswith(incomplete)]


def _arms(incomplete: str) -> list[str]:
    """The arms not yet named, behind the comma-separated ones that are."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in ARMS if name.startswith(last) and name not in before.split(",")]


AdapterName = Annotated[
    str, typer.Argument(help="an adapter's folder, a shipped one's name, or NAMESPACE/NAME on the hub", autocompletion=_adapters)
]
BaseSource = Annotated[
    str | None, typer.Option("--base-source", help="`hub`, `bundled` or a folder with the base's weights; by default as the adapter says")
]
Columns = Annotated[
    str | None, typer.Option(help="which columns hold what, as input=question,output=answer; noticed by default", metavar="ROLE=NAME,...")
]
Turns = Annotated[str, typer.Option(help="of chats, `all` of the assistant's turns are learned, or the `last` alone")]
AllowVariant = Annotated[
    bool, typer.Option("--allow-base-variant", help="accept other weights of the adapter's base; recorded in the result")
]


def main() -> None:
    """Run the command line; a user's mistake prints its message and no traceback."""
    _quiet_libraries()
    try:
        app()
    except HeadstartError as error:
        _fail(str(error), MISTAKE)
    except FloatingPointError as error:
        _fail(str(error), DIVERGED)


@app.command("meta-train")
def meta_train(
    recipe: Annotated[str | None, typer.Argument(help="a recipe file, or the name of a shipped recipe", autocompletion=_recipes)] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[A.B=VALUE]...", help="values over the recipe's")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the stopped run in run.output_dir")] = False,
    equal_compute_of: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="instead of a recipe: train the multi-task control of a finished run, at equal compute"),
    ] = None,
    learn_rates: Annotated[
        bool, typer.Option("--learn-rates", help="of such a control: learn rates too, the initialisation being frozen, in the same budget")
    ] = False,
    rates_share: Annotated[float | None, typer.Option(help="the share of that budget for the rates; 0.2 by default")] = None,
) -> None:
    """Meta-train an adapter by a recipe, or the equal-compute control of one."""
    checked, control_of = _to_train(recipe, overrides or [], equal_compute_of, learn_rates, rates_share)
    from headstart.training.errors import Stopped
    from headstart.training.run import run_recipe

    command = shlex.join(["headstart", *(argument for argument in sys.argv[1:] if argument != "--resume")])
    try:
        run_recipe(checked, _console(), resume, control_of, command)
    except Stopped as stopped:
        again = f"{command} --resume"
        under = ", under the same launcher," if os.environ.get("WORLD_SIZE", "1") != "1" else ""
        if stopped.is_main:
            typer.echo(f"stopped after step {stopped.step}; go on{under} with: {again}", err=True)
        raise typer.Exit(STOPPED) from None


def _to_train(
    recipe: str | None, overrides: list[str], run: Path | None, learn_rates: bool, rates_share: float | None
) -> "tuple[Recipe, ControlOf | None]":
    """What `meta-train` was asked for, checked: a recipe, or the control of a run."""
    from headstart.recipe import RecipeError, load_recipe

    if run is None:
        if learn_rates or rates_share is not None:
            raise RecipeError("--learn-rates and --rates-share are of a control; name its run with --equal-compute-of")
        if recipe is None:
            raise RecipeError("give a recipe (a file, or a shipped one's name), or --equal-compute-of and a finished run's folder")
        return load_recipe(recipe, overrides), None
    if recipe is not None and "=" not in recipe:
        raise RecipeError(f"{recipe!r} and --equal-compute-of {run}: give one of them; a control's recipe is its run's")
    if rates_share is not None and not learn_rates:
        raise RecipeError("--rates-share is the rates' share of the budget; add --learn-rates")
    from headstart.training.equal_compute import RATES_SHARE, control_recipe

    # without a recipe, the first override stands in its place
    overrides = [recipe, *overrides] if recipe is not None else overrides
    return control_recipe(run, overrides, learn_rates, RATES_SHARE if rates_share is None else rates_share)


@app.command()
def adapt(
    adapter: AdapterName,
    data: Annotated[
        list[str],
        typer.Option(help="a .jsonl, .json, .csv, .tsv or .parquet file of one task, in any usual shape; a folder or a pattern in quotes"),
    ],
    output: Annotated[
        Path | None, typer.Option(help="the adapter's folder, or of many files the folder of theirs; adapted/NAME-OF-DATA by default")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="adaptation steps, or auto, which chooses by held-out loss (the default)")] = None,
    epochs: Annotated[int | None, typer.Option(help="times through the rows, instead of --steps")] = None,
    batch_size: Annotated[int, typer.Option(help="rows a step, in as many micro-batches as memory asks for")] = 32,
    learning_rate: Annotated[float | None, typer.Option(help="AdamW's rate beyond the shipped steps; falls to zero")] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="stop after so many looks without a lower held-out loss; keep the best")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="rows to adapt on; the rest is measured on. All by default")] = None,
    eval_file: Annotated[Path | None, typer.Option(help="rows to choose by and to measure on")] = None,
    labels: Annotated[str | None, typer.Option(help="comma-separated labels to rank, or none; noticed by default")] = None,
    instruction: Annotated[str | None, typer.Option(help="what precedes every input; the rows' own by default")] = None,
    columns: Columns = None,
    turns: Turns = "all",
    max_length: Annotated[int | None, typer.Option(min=1, help="the most tokens of a row; as in training by default")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="tune a fresh LoRA beside it")] = False,
    measure: Annotated[bool, typer.Option(help="measure before and after")] = True,
    seed: Annotated[int, typer.Option(help="of the order of rows, folds, and what is held back")] = 0,
    base_source: BaseSource = None,
    allow_base_variant: AllowVariant = False,
) -> None:
    """Fine-tune a meta-adapter on rows of your own; one file or many. Run again, it does what is missing."""
    from headstart.adapting.data import Reading
    from headstart.adapting.fit import Stopped
    from headstart.adapting.run import adapt_files
    from headstart.adapting.settings import Settings, whole_or_auto
    from headstart.tasks.reading.shapes import read_columns, read_turns

    settings = Settings(whole_or_auto(steps), epochs, batch_size, learning_rate, early_stopping, compare, measure, seed)
    try:
        adapt_files(
            adapter,
            data,
            output=output,
            reading=Reading(shots, eval_file, _labels(labels), instruction, read_columns(columns), read_turns(turns)),
            settings=settings,
            max_length=max_length,
            base_source=base_source,
            allow_base_variant=allow_base_variant,
            console=_console(),
        )
    except Stopped:
        typer.echo("stopped; what is finished is saved, and the same command goes on with the rest", err=True)
        raise typer.Exit(STOPPED) from None


@app.command()
def generate(
    adapters: Annotated[
        list[str], typer.Argument(help="adapter folders, or shipped ones' names; `base` for none at all", autocompletion=_adapters)
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="an input to answer; may be given again")] = None,
    file: Annotated[Path | None, typer.Option(help="a file of rows with `input`, and an `instruction` if need be")] = None,
    output: Annotated[Path | None, typer.Option(help="write JSON lines here; printed by default")] = None,
    instruction: Annotated[str | None, typer.Option(help="what precedes every input; the adapter's own by default")] = None,
    labels: Annotated[
        str | None, typer.Option(help="comma-separated labels to choose among, or none; the adapter's own by default")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="the most tokens of an answer")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, it samples")] = 0.0,
    top_p: Annotated[float, typer.Option(help="sample among the likeliest tokens of this probability together")] = 1.0,
    seed: Annotated[int, typer.Option(help="of sampling")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="inputs at once")] = 16,
    base_source: BaseSource = None,
    allow_base_variant: AllowVariant = False,
) -> None:
    """Answer prompts with one adapter, or with several side by side; a classification gets its labels' probabilities."""
    from headstart.generating import generate
    from headstart.model.decode import Sampling

    generate(
        adapters,
        prompts=prompt or (),
        file=file,
        output=output,
        instruction=instruction,
        labels=_labels(labels),
        sampling=Sampling(max_new_tokens, temperature, top_p, seed),
        batch_size=batch_size,
        base_source=base_source,
        allow_base_variant=allow_base_variant,
        console=_console(),
    )


@app.command()
def evaluate(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER... [evaluation.B=VALUE]...",
            help="a meta-adapter's folder or a shipped one's name; several are training seeds of one recipe. Then values over the recipe's",
            autocompletion=_adapters,
        ),
    ],
    suite: Annotated[
        str | None, typer.Option(help="`builtin`, a suite's folder or a dataset's id; by default the one it was trained on")
    ] = None,
    split: Annotated[
        str, typer.Option(help="the split to measure on; meta_test needs --final", autocompletion=_splits)
    ] = "meta_validation",
    arms: Annotated[str | None, typer.Option(help=f"comma-separated: {', '.join(ARMS)}", autocompletion=_arms)] = None,
    tier: Annotated[
        str | None, typer.Option(help=f"{', '.join(TIERS)}: fixes tasks, draws, query examples, steps and shots", autocompletion=_tiers)
    ] = None,
    shots: Annotated[str | None, typer.Option(help="comma-separated numbers of support examples", metavar="K,...")] = None,
    steps: Annotated[str | None, typer.Option(help="comma-separated adaptation steps to measure after", metavar="N,...")] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="support draws a task")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="comma-separated training seeds that take part; by default all adapters' given", metavar="SEED,...")
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="look at meta_test, which is written into the ledger")] = False,
    output: Annotated[
        Path | None, typer.Option(help="where to write; by default beside the adapter and into its card, for a shipped one evaluated/NAME")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="the file of looks at test splits; by default one for all projects of a user")] = None,
    base_source: BaseSource = None,
    quantization: Annotated[
        str | None, typer.Option(help="how the base is loaded: none or nf4; by default as the adapter was trained on")
    ] = None,
    allow_base_variant: AllowVariant = False,
) -> None:
    """Compare a meta-adapter with its baselines on held-out tasks. Run again, it goes on where it was stopped."""
    from headstart.evaluation.campaign import Stopped
    from headstart.evaluation.run import evaluate

    overrides = [each for each in adapters if "=" in each and not Path(each).exists()]
    try:
        evaluate(
            [each for each in adapters if each not in overrides],
            suite=suite,
            split=split,
            tier=_one_of(tier, TIERS, "--tier"),
            arms=[name.strip() for name in arms.split(",")] if arms is not None else None,
            shots=_numbers(shots, "--shots"),
            steps=_numbers(steps, "--steps"),
            draws=draws,
            seeds=_numbers(seeds, "--seeds"),
            final=final,
            output=output,
            overrides=overrides,
            base_source=base_source,
            quantization=_one_of(quantization, QUANTIZATIONS, "--quantization"),
            allow_base_variant=allow_base_variant,
            ledger=ledger,
            console=_console(),
        )
    except Stopped:
        typer.echo("stopped; what was measured is kept, and the same command goes on", err=True)
        raise typer.Exit(STOPPED) from None


@app.command()
def lint(
    adapter: AdapterName,
    engines: Annotated[
        str | None, typer.Option("--for", help=f"comma-separated: {', '.join(ENGINES)}; all by default", metavar="ENGINE,...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print problems as JSON")] = False,
) -> None:
    """See whether servers can use an adapter, and what to change where they cannot. Exit code 1 where there is an error."""
    from headstart.adapter.lint import lint
    from headstart.checking.report import print_findings

    asked = [_one_of(name.strip(), ENGINES, "--for") for name in (",".join(ENGINES) if engines is None else engines).split(",")]
    findings = lint(adapter, asked)
    if as_json:
        typer.echo(json.dumps(findings.as_json(), indent=1, ensure_ascii=False))
    else:
        print_findings(findings, _console())
    if findings.errors:
        raise typer.Exit(FOUND)


@app.command()
def merge(
    adapter: AdapterName,
    output: Annotated[Path, typer.Option(help="the folder to write")],
    onto: Annotated[
        str | None,
        typer.Option(help="add to the `original` weights, or to the `dequantized` ones that it was trained on, the default in 4 bit"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"of the merged weights: {', '.join(DTYPES)}; by default as the adapter was trained, or bfloat16")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="of one weights file")] = "5GB",
    base_source: BaseSource = None,
    allow_base_variant: AllowVariant = False,
) -> None:
    """Merge an adapter into its base's weights: a plain model for transformers, and by how much its logits differ."""
    from headstart.adapter.merge import merge

    merge(
        adapter,
        output,
        onto=_one_of(onto, ("original", "dequantized"), "--onto"),
        dtype=_one_of(dtype, DTYPES, "--dtype"),
        max_shard_size=max_shard_size,
        base_source=base_source,
        allow_base_variant=allow_base_variant,
        console=_console(),
    )


@app.command()
def export(
    adapter: AdapterName,
    output: Annotated[Path, typer.Option(help="the file to write, NAME.gguf")],
    precision: Annotated[str, typer.Option(help="float32 or float16")] = "float32",
    base_source: BaseSource = None,
) -> None:
    """Write an adapter as a GGUF LoRA, which llama.cpp takes beside a GGUF of the base."""
    from headstart.adapter.gguf import export_gguf

    export_gguf(adapter, output, precision=_one_of(precision, ("float32", "float16"), "--precision"), base_source=base_source)
    typer.echo(f"wrote {output}", err=True)


@app.command()
def publish(
    adapter: AdapterName,
    repo_id: Annotated[str | None, typer.Argument(metavar="[NAMESPACE/NAME]", help="the repository, made if need be")] = None,
    folder: Annotated[Path | None, typer.Option(help="write a plain folder instead")] = None,
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    revision: Annotated[str | None, typer.Option(help="the branch, made if need be")] = None,
    tag: Annotated[str | None, typer.Option(help="a name for this version, as v1.0")] = None,
    license: Annotated[str | None, typer.Option(help="the adapter's licence, as apache-2.0; the card's own by default")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="the hub's id of what it was trained on; may be given again")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, and change nothing")] = False,
) -> None:
    """Publish an adapter to a model hub, checked as a whole, in one commit. Run again, it does what is missing."""
    from headstart.publishing import publish

    publish(
        adapter,
        repo_id,
        folder=folder,
        private=private,
        revision=revision,
        tag=tag,
        license=license,
        datasets=dataset or (),
        dry_run=dry_run,
        console=_console(),
    )


@app.command("list")
def list_adapters(
    as_json: Annotated[bool, typer.Option("--json", help="print them as JSON")] = False,
) -> None:
    """List the adapters that commands can be given: shipped, in the hub's cache, and below this folder."""
    from headstart.adapter.places import adapters_here, as_table

    found = adapters_here(Path.cwd())
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in found], indent=1, ensure_ascii=False))
    else:
        _console().print(as_table(found))


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            help="a recipe's file or name; `builtin`, a suite's folder or a dataset's id on the hub; a file of rows",
            autocompletion=_recipes,
        ),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[A.B=VALUE]...", help="values over a recipe's")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="show rendered examples, and a packed row as attention sees it")] = False,
    html: Annotated[Path | None, typer.Option(help="write the preview as a page")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print problems and facts as JSON")] = False,
    base: Annotated[
        str, typer.Option(help="hub id of the base whose template renders a suite or a file; a recipe names its own")
    ] = BUNDLED_ID,
    base_source: BaseSource = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="the most tokens of an example of a suite or a file; 512 by default")
    ] = None,
    columns: Columns = None,
    turns: Turns = "all",
) -> None:
    """Look at a recipe, a suite or a file before anything long starts: every problem in one pass. Exit code 1 where there is an error."""
    from headstart.checking.check import check_and_draw, write_page
    from headstart.checking.report import print_findings
    from headstart.tasks.reading.shapes import read_columns, read_turns

    spec = BaseSpec(base, base_source or ("bundled" if base == BUNDLED_ID else "hub"))
    drawn = preview or html is not None
    findings, previews = check_and_draw(target, overrides or (), spec, max_length, read_columns(columns), read_turns(turns), drawn)
    if as_json:
        typer.echo(json.dumps(findings.as_json(), indent=1, ensure_ascii=False))
    else:
        console = _console()
        if preview:
            from headstart.checking.preview_console import print_preview

            for each in previews:
                print_preview(each, console)
        print_findings(findings, console)
    if html is not None and previews:
        write_page(previews, html, f"What {target} trains")
        typer.echo(f"wrote {html}", err=True)
    if findings.errors:
        raise typer.Exit(FOUND)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from headstart.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command()
def env() -> None:
    """Print versions, devices and folders, for bug reports."""
    from headstart.provenance import environment

    for name, value in environment().items():
        typer.echo(f"{name}: {value}")


def _numbers(text: str | None, option: str) -> list[int] | None:
    """Whole numbers from a command line, with commas between."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise HeadstartError(f"{option} {text}: write whole numbers with commas between, such as 4,16") from None


def _one_of(text: str | None, allowed: Sequence[str], option: str) -> Any:
    if text is not None and text not in allowed:
        raise HeadstartError(f"{option} {text or repr(text)}: there are {', '.join(allowed)}")
    return text


def _labels(text: str | None) -> tuple[str, ...] | None:
    """Labels from a command line; `none` is no labels."""
    if text is None:
        return None
    return () if text.strip().lower() == "none" else tuple(label.strip() for label in text.split(","))


def _console() -> Console:
    """The terminal; a file or pipe has no width of its own and gets one that the tables fit in."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)


def _fail(message: str, code: int) -> None:
    rank = os.environ.get("RANK", "0")
    name = "headstart" if rank == "0" else f"headstart, rank {rank}"
    Console(stderr=True).print(f"{name}: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)


def _quiet_libraries() -> None:
    """Keep libraries' own bars out of the output."""
    if _wants_model():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def _wants_model() -> bool:
    """Whether the command will load a model; the others start without importing transformers."""
    return bool({"meta-train", "adapt", "evaluate", "generate", "merge"}.intersection(sys.argv[1:2]))
