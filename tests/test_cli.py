"""The command line: what it prints, what it leaves, and that a user's mistake gives a message, a code and no traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from headstart import cli
from headstart.adapter.lint import ENGINES
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.rules import Adam
from headstart.algorithms.trail import state_bytes
from headstart.cli import ARMS, FOUND, MISTAKE, SPLITS, STOPPED, TIERS, app, main
from headstart.evaluation import arms, design
from headstart.model.base import DTYPES
from headstart.model.learner import Learner, LoraSpec
from headstart.recipe import Recipe
from headstart.tasks.sources import open_suite

OVERRIDES = ["suite.tasks_per_step=2", "suite.support=2", "suite.query=2", "suite.max_length=400", "run.eval_tasks=1", "run.control=false"]


def headstart(*arguments):
    """In a process of its own, as a user has it."""
    return subprocess.run([sys.executable, "-m", "headstart", *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture
def here(monkeypatch, capsys):
    """The same command in this process, which need not import torch again."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stopped.value.code, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def run_folder(tiny_folder, tmp_path_factory):
    """A meta-trained tiny adapter, made by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    base = [f"base.source={tiny_folder}", "base.id=test/tiny", "base.dtype=float32", f"run.output_dir={folder}"]
    done = headstart("meta-train", "quickstart", "phases.0.steps=1", "phases.1.steps=1", *base, *OVERRIDES)
    assert done.returncode == 0, done.stderr
    assert "multitask: 100%" in done.stdout
    assert f"saved {folder}/adapter" in done.stdout
    return folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"instruction": "Shout.", "input": f"word {n}", "output": f"WORD {n}"} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_adapt_prints_before_and_after_and_saves(here, run_folder, data, tmp_path):
    done = here("adapt", run_folder / "adapter", "--data", data, "--steps", 2, "--shots", 8, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "4 held-out rows" in done.stdout
    assert "head start, 2 steps" in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    again = here("adapt", run_folder / "adapter", "--data", data, "--steps", 3, "--shots", 8, "--output", tmp_path / "out")
    assert again.returncode == MISTAKE
    assert "exists already" in again.stderr


def test_many_files_are_adapted_together_and_the_bad_one_named(here, run_folder, data, tmp_path):
    folder = tmp_path / "tenants"
    folder.mkdir()
    shutil.copy(data, folder / "good.jsonl")
    (folder / "empty.jsonl").write_text("")
    done = here("adapt", run_folder / "adapter", "--data", f"{folder}/*.jsonl", "--steps", 1, "--output", tmp_path / "out")
    assert done.returncode == MISTAKE
    assert "1 of 2 files failed, the first empty" in done.stderr
    assert "failed:" in done.stdout
    assert (tmp_path / "out" / "good" / "adapter_model.safetensors").exists()
    (folder / "empty.jsonl").unlink()
    again = here("adapt", run_folder / "adapter", "--data", folder, "--steps", 1, "--output", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert "was there" in again.stdout


def test_a_killed_adapting_goes_on(run_folder, data, tmp_path):
    """Ctrl-C while it runs: a message, its exit code, nothing half-written; the same command then finishes."""
    command = [
        sys.executable,
        "-m",
        "headstart",
        "adapt",
        str(run_folder / "adapter"),
        "--data",
        str(data),
        "--steps",
        "4000",
        "--no-measure",
    ]
    command += ["--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".out.lock").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == STOPPED, told
    assert "the same command goes on" in told
    assert not (tmp_path / "out").exists()
    (left,) = (tmp_path / ".out.adapting").iterdir()
    stopped_at = json.loads((left / "fit.json").read_text())["step"]
    assert stopped_at < 4000


def restore_interrupts():
    """A process started in the background of a shell is born deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def other_weights(base, folder):
    """A copy of a base under other weights."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1e-3}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_adapting_to_a_variant_of_the_base_is_recorded(here, run_folder, tiny_folder, data, tmp_path):
    other = other_weights(tiny_folder, tmp_path / "other")
    options = ["--data", data, "--steps", 1, "--shots", 8, "--output", tmp_path / "out", "--base-source", other]
    done = here("adapt", run_folder / "adapter", *options, "--allow-base-variant")
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out" / "headstart.json").read_text())
    assert about["base"]["source"] == str(other)
    assert about["base_variant_of"]["source"] == str(tiny_folder)


def mistakes(run_folder, tiny_folder, data, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"input": "a"}\n')
    adapter = run_folder / "adapter"
    tiny = [f"base.source={tiny_folder}", "base.id=test/tiny", f"run.output_dir={tmp_path / 'new'}"]
    spoilt = shutil.copytree(adapter, tmp_path / "spoilt")
    weights = spoilt / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    other = other_weights(tiny_folder, tmp_path / "other")
    return {
        "unknown recipe": (["meta-train", "nope"], "no recipe file 'nope', and none is shipped under that name; shipped: "),
        "unknown key": (["meta-train", "quickstart", "suite.suport=3"], "suite.suport: unknown key; did you mean suite.support?"),
        "another tool's key": (["meta-train", "quickstart", "lora_r=3"], "lora_r: unknown key; here it is adapter.r"),
        "number as text": (["meta-train", "quickstart", "outer.learning_rate='3e-4'"], "write it without quotes: 3e-4"),
        "no such base": (["meta-train", "quickstart", f"base.source={tmp_path / 'gone'}", tiny[2]], "there is no folder"),
        "overrides for a suite": (["check", "builtin", "suite.support=3"], "'suite.support=3' changes a recipe, and 'builtin' is none"),
        "no such target": (["meta-train", "quickstart", *tiny, "adapter.target_modules=[query]"], "'query' matches nothing in this base"),
        "too few rows": (["meta-train", "quickstart", *tiny, "suite.support=9999"], "lower suite.support and suite.query"),
        "weights cut off": (["evaluate", spoilt], "adapter_model.safetensors: cut off"),
        "another base": (
            ["adapt", adapter, "--data", data, "--shots", 4, "--base-source", other],
            "accept these with --allow-base-variant",
        ),
        "finished run": (["meta-train", run_folder / "recipe.yaml"], "already holds a finished run"),
        "no such adapter": (["evaluate", tmp_path / "gone"], "there is no adapter folder"),
        "unknown arm": (["evaluate", adapter, "--arms", "best"], "unknown arm 'best'"),
        "test split": (["evaluate", adapter, "--split", "meta_test"], "add --final"),
        "unknown tier": (["evaluate", adapter, "--tier", "huge"], "--tier huge: there are quick, standard, full"),
        "shots in words": (["evaluate", adapter, "--shots", "few"], "--shots few: write whole numbers with commas between"),
        "unknown quantization": (["evaluate", adapter, "--quantization", "int8"], "--quantization int8: there are none, nf4"),
        "no such seed": (["evaluate", adapter, "--seeds", "0,7"], "no adapter given was trained by seed 7"),
        "override of what is trained": (["evaluate", adapter, "outer.learning_rate=1"], "only evaluation.KEY=VALUE can be changed here"),
        "unknown suite": (["evaluate", adapter, "--suite", tmp_path / "gone"], "there is no suite"),
        "missing file": (["adapt", adapter, "--data", tmp_path / "gone.jsonl"], "no such file"),
        "missing column": (["adapt", adapter, "--data", broken], "line 1: `output` is missing"),
        "steps and epochs": (["adapt", adapter, "--data", data, "--steps", 2, "--epochs", 1], "give one of them"),
        "steps in words": (["adapt", adapter, "--data", data, "--steps", "few"], "give a whole number, or auto"),
        "no such pattern": (["adapt", adapter, "--data", f"{tmp_path}/none/*.jsonl"], "a pattern in quotes"),
        "nothing to answer": (["generate", adapter], "give either --prompt or --file"),
        "too many shots": (["adapt", adapter, "--data", data, "--shots", 12], "lower --shots"),
    }


def test_mistakes_give_a_message_and_a_code_but_no_traceback(here, run_folder, tiny_folder, data, tmp_path):
    done = headstart("meta-train", "nope")
    assert (done.returncode, done.stdout) == (MISTAKE, "")
    assert "Traceback" not in done.stderr
    for name, (arguments, words) in mistakes(run_folder, tiny_folder, data, tmp_path).items():
        done = here(*arguments)
        assert done.returncode == MISTAKE, (name, done.stderr)
        assert words in done.stderr, name


def test_check_tells_mistakes_in_what_it_looks_at_and_has_a_code_for_them(here, data, tmp_path):
    """All on stdout, since finding them is what it is for."""
    with data.open("a") as rows:
        rows.write('{"input": "a"}\n')
    found = {
        "unknown key": (["quickstart", "suite.suport=3"], "suite.suport: unknown key; did you mean suite.support?"),
        "number as text": (["quickstart", "outer.learning_rate='3e-4'"], "write it without quotes: 3e-4"),
        "no such base": (["quickstart", f"base.source={tmp_path / 'gone'}"], "there is no folder"),
        "no such suite": ([tmp_path / "gone"], "there is no suite"),
        "faulty row": ([data, "--base", "test/tiny", "--base-source", tmp_path / "gone"], "line 13: `output` is missing"),
    }
    for name, (arguments, words) in found.items():
        done = here("check", *arguments)
        assert (done.returncode, done.stderr) == (FOUND, ""), name
        assert any(line.startswith("error: ") and words in line for line in done.stdout.splitlines()), name


EVALUATION = ["evaluation.tasks=1", "evaluation.tuning_tasks=1", "evaluation.learning_rates=[1e-3]"]
EVALUATION += ["evaluation.rate_factors=[1.0]", "evaluation.regimes=[instructed]"]


def test_evaluate_predicts_measures_and_goes_on(run_folder, tmp_path, monkeypatch):
    """Stopped by a signal after its first piece, it exits with the code for that; again, it ends; what it printed is a table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = [run_folder / "adapter", *EVALUATION, "--arms", "random,meta", "--shots", "2,4", "--steps", "0,1", "--draws", "2"]
    command = [sys.executable, "-m", "headstart", "evaluate", *map(str, options), "--output", str(tmp_path / "out")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kept = tmp_path / "cache" / "headstart" / "evaluations"
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in kept.glob("*.jsonl")) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    printed, told = running.communicate(timeout=120)
    assert running.returncode == STOPPED, (printed, told)
    assert "what was measured is kept, and the same command goes on" in told
    assert "predicted: " in printed
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "was done before" in done.stdout or "were done before" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "report.html", "report.md", "curves.png"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {(each["arm"], each["k"], each["draw"], each["step"]) for each in results["records"]} == {
        (arm, k, draw, step) for arm in ("random", "meta") for k in (2, 4) for draw in (0, 1) for step in (0, 1)
    }


def test_what_comes_out_is_linted_exported_merged_and_published(here, run_folder, tmp_path, monkeypatch):
    """The adapter's own base is a folder here, so the plain folder is where publishing ends."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder / "adapter", tmp_path / "runs" / "mine" / "adapter")
    adapter = "runs/mine/adapter"
    linted = here("lint", adapter, "--for", "vllm,peft", "--json")
    assert (linted.returncode, json.loads(linted.stdout)["errors"]) == (0, 0)
    assert here("export", adapter, "--output", "mine.gguf", "--precision", "float16").returncode == 0
    assert (tmp_path / "mine.gguf").read_bytes().startswith(b"GGUF")
    merged = here("merge", adapter, "--output", "merged", "--dtype", "float32")
    assert merged.returncode == 0, merged.stderr
    assert "logits differ by at most" in " ".join(merged.stdout.split())
    assert (tmp_path / "merged" / "model.safetensors").exists()
    rehearsed = here("publish", adapter, "--folder", "out", "--license", "apache-2.0", "--dry-run")
    assert "would publish adapter_model.safetensors" in rehearsed.stdout
    assert not (tmp_path / "out").exists()
    assert here("publish", adapter, "--folder", "out", "--license", "apache-2.0", "--dataset", "me/data").returncode == 0
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    listed = {each["name"]: each for each in json.loads(here("list", "--json").stdout)}
    assert (listed[adapter]["origin"], listed[adapter]["kind"], listed[adapter]["base"]) == ("here", "meta_adapter", "test/tiny")
    assert listed["smollm2-135m-instruct-quickstart"]["origin"] == "shipped"
    assert adapter in here("list").stdout


def test_what_engines_refuse_has_a_code(here, run_folder, tmp_path):
    place = tmp_path / "adapter"
    shutil.copytree(run_folder / "adapter", place)
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    assert here("lint", place).returncode == FOUND
    assert here("lint", place, "--for", "vllm").returncode == 0
    asked = here("lint", place, "--for", "tgi")
    assert (asked.returncode, "vllm, sglang, llama.cpp" in asked.stderr) == (MISTAKE, True)
    assert here("publish", place, "me/toy").returncode == MISTAKE


def test_schema_is_the_recipes():
    printed = CliRunner().invoke(app, ["schema"]).stdout
    assert json.loads(printed) == Recipe.model_json_schema()


def test_env_names_versions():
    printed = CliRunner().invoke(app, ["env"]).stdout
    assert "torch: " in printed
    assert "bundled base: " in printed


def test_check_tells_sizes_and_shows_what_is_trained(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    base = [f"base.source={tiny_folder}", "base.id=test/tiny", f"run.output_dir={tmp_path / 'run'}"]
    printed = CliRunner().invoke(app, ["check", "quickstart", *base, "--preview"]).stdout
    sizes = next(line.split() for line in printed.splitlines() if line.startswith("meta_train "))
    assert sizes[1:3] == ["123", "24"]
    assert "tokens an episode, packed" in printed
    trained = [line for line in printed.splitlines() if line.startswith("trained ")]
    assert all(line.rstrip().endswith("<|im_end|>") for line in trained)
    assert len(trained) > 2
    assert not any("assistant" in line for line in trained)
    assert printed.splitlines()[-1] == "quickstart: nothing wrong"


def test_check_counts_inner_states(tiny_folder, dense_base, tmp_path, monkeypatch):
    """Those of the tasks that are computed together; the other phases have none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    overrides = [f"base.source={tiny_folder}", "base.id=test/tiny", "phases.1.algorithm=maml", "phases.1.inner_state=offload"]
    overrides += [
        f"run.output_dir={tmp_path / 'run'}",
        "phases.1.inner.steps=5",
        "suite.task_micro_batch=2",
        "suite.support=2",
        "suite.query=2",
    ]
    printed = CliRunner().invoke(app, ["check", "quickstart", *overrides]).stdout
    with Learner(dense_base, LoraSpec()) as learner:
        wanted = state_bytes(learner.shapes(), 2, 5, Adam(), "offload")
    device, host = wanted.device / 1e6, wanted.host / 1e6
    said = f"inner states (offload): up to {device:.1f} MB on the device and {host:.1f} MB in the host's memory, 2 tasks computed together"
    assert printed.count("inner states") == 1
    assert said in printed


def test_help_comes_without_loading_torch():
    code = "import sys; from headstart.cli import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_meta_trained_adapter_can_be_read(run_folder):
    assert MetaAdapter.from_pretrained(run_folder / "adapter").record["recipe"]["phases"][1]["algorithm"] == "fomaml"


def complete(*words):
    """What bash is offered for the last word, and whether torch was loaded for it."""
    environment = {**os.environ, "_HEADSTART_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = (
        "import sys, atexit; sys.argv = ['headstart']; atexit.register(lambda: print('torch' in sys.modules)); "
        "from headstart.cli import main; main()"
    )
    *offered, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    ).stdout.split()
    return offered, loaded == "True"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("headstart", "check", "quick"), ["quickstart"]),
        (("headstart", "meta-train", "quick"), ["quickstart"]),
        (("headstart", "evaluate", "x", "--split", "meta_"), list(SPLITS)),
        (("headstart", "evaluate", "x", "--arms", "meta,r"), ["meta,random"]),
        (("headstart", "evaluate", "x", "--tier", "q"), ["quick"]),
        (("headstart", "meta"), ["meta-train"]),
    ],
)
def test_shells_complete_without_loading_torch(words, offered):
    assert complete(*words) == (offered, False)


def test_adapters_are_completed(tmp_path, monkeypatch):
    for name in ("smollm2-builtin", "other"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("headstart.shipped.shipped_folder", lambda kind: tmp_path / kind)
    monkeypatch.setenv("_HEADSTART_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "headstart adapt smol")
    monkeypatch.setenv("COMP_CWORD", "2")
    printed = CliRunner().invoke(app, [], prog_name="headstart").stdout
    assert printed.split() == ["smollm2-builtin"]


def test_completion_can_be_installed(monkeypatch):
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout
    # the shell that runs the tests is not asked which one it is
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    printed = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="headstart").stdout
    assert "_HEADSTART_COMPLETE=complete_bash" in printed


def test_what_is_completed_is_what_there_is():
    assert set(ARMS) == set(arms.ARMS)
    assert cli.ENGINES == ENGINES
    assert tuple(DTYPES) == cli.DTYPES
    assert tuple(design.TIERS) == TIERS
    assert set(SPLITS) == set(open_suite("builtin").splits)
