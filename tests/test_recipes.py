"""The recipes can be followed: their commands run, in their order, at tiny sizes.

bash reads the shell of a page, where `ptft` only writes down what it was given, so that loops,
variables and quotes are bash's own. The commands then run in this process, made small by flags put
after theirs. Downloads and schedulers are left out.
"""

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from command_line import BAD, GOOD, MODEL, WORDS, run, sentences, write_corpus

from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig

ROOT = Path(__file__).resolve().parent.parent
TRAININGS = ("pretrain", "finetune", "sweep")
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VOCAB_SIZE = 64
CHARACTERS = "河石鸟云桌光纸水园窗的是在有好坏"

# What is not ours does nothing, but for the segmenter: its words are of two characters.
PRELUDE = """
set -euo pipefail
ptft() { printf '%s\\0' "$@" >&3; printf '\\n\\0' >&3; }
hf() { :; }; pip() { :; }; squeue() { :; }; tail() { :; }
bash() { [[ -f $ROOT/$1 ]]; }
source() { [[ $1 == .venv/bin/activate ]]; }
python() { LC_ALL=C.UTF-8 sed 's/\\([^ ]\\{2\\}\\)/\\1 /g' "${@: -1}"; }
"""
# Small, and alike, so that one program serves the trainings of all pages.
SMALL = {
    "prepare": {"dev_fraction": 0.2, "workers": 1},
    "pretrain": {
        "steps": 2,
        "batch_size": 8,
        "max_seq_length": 32,
        "max_predictions_per_seq": 5,
        "max_sequences_per_pack": 4,
        "eval_examples": 8,
        "phases": "()",
        "optimizer.learning_rate": 1e-3,
        "schedule.warmup_ratio": 0.5,
    },
    "finetune": {"steps": 2, "batch_size": 8, "max_seq_length": 16, "length_buckets": "()"},
}


class Command(NamedTuple):
    """A command of a page."""

    arguments: list[str]

    @property
    def name(self) -> str:
        first, second = (*self.arguments, "")[:2]
        return f"{first} {second}" if first in ("data", "ckpt", "launch") else first

    def value(self, flag: str) -> str | None:
        """Returns the last value of a flag."""
        found = [one.partition("=")[2] for one in self.arguments if one.startswith(f"--{flag}=")]
        return found[-1] if found else None


def commands_of(page: Path, place: Path) -> list[Command]:
    """Runs the shell of a page and returns the ptft commands that it called."""
    shell = "\n".join(
        body for name, body in BLOCK.findall(page.read_text("utf-8")) if name == "bash"
    )
    written = place / f"{page.stem}.calls"
    with written.open("wb") as calls:
        subprocess.run(
            ["bash", "-c", f"exec 3>&{calls.fileno()}\n{PRELUDE}{shell}"],
            cwd=place, env={"PATH": "/usr/bin:/bin", "ROOT": str(ROOT)}, check=True,
            pass_fds=[calls.fileno()],
        )  # fmt: skip
    calls = written.read_bytes().decode().split("\0\n\0")[:-1]
    commands = [Command(arguments.split("\0")) for arguments in calls]
    return [one for command in commands for one in runs_of(command)]


def runs_of(command: Command) -> list[Command]:
    """Returns the first run of each task that a command for several tasks and seeds makes here."""
    seeds, config = command.value("seeds"), command.value("config") or ""
    if seeds is None or command.name == "sweep":
        return [command]
    file, _, task = config.partition(":")
    tasks = ("mrpc", "mnli", "rte") if task == "all" else (task,)
    place, seed = command.value("run_dir"), seeds.split(",")[0]
    rest = [
        word
        for word in command.arguments
        if not word.startswith(("--config=", "--run_dir=", "--seeds=", "--protocol="))
    ]
    return [
        Command([*rest, f"--config={file}:{one}", f"--run_dir={place}/{one}/seed-{seed}"])
        for one in tasks
    ]


def write_chinese(path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [
        "".join("".join(rng.choice(list(CHARACTERS), 9)) + "。" for _ in range(6))
        for _ in range(20)
    ]
    path.write_text("\n\n".join(documents) + "\n", "utf-8")


def write_bert(folder: Path, words: list[str]) -> None:
    """Writes a Hugging Face folder with a vocabulary and random weights of the tiny model."""
    vocab = folder.with_suffix(".vocab.txt")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    words += [f"[unused{number}]" for number in range(VOCAB_SIZE - len(words))]
    vocab.write_text("\n".join(words) + "\n")
    tokenizer = TextTokenizer.load(vocab)
    flags = (flag.removeprefix("--config.model.").split("=") for flag in MODEL)
    sizes: dict[str, Any] = {name: int(size) for name, size in flags}
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        heads=("pooler", "mlm", "nsp"),
        **sizes,
    )
    params = jax.device_get(build_model(config).init(jax.random.key(0)))
    write_hf_folder(folder, params, config, tokenizer, "card", None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the recipes take as given."""
    place = tmp_path_factory.mktemp("recipes")
    for name in ("configs", "launch"):
        (place / name).symlink_to(ROOT / name)
    for name in ("text", "domain", "chinese", "my_table", "wikipedia/20231101.en"):
        (place / name).mkdir(parents=True)
    for name in ("text", "domain"):
        write_corpus(place / name / "a.txt", 20)
    texts = (place / "text" / "a.txt").read_text("utf-8").split("\n\n")
    articles = place / "wikipedia" / "20231101.en" / "0.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), articles)
    write_chinese(place / "chinese" / "a.txt")
    for split, seed in (("train", 1), ("dev", 2)):
        rows = [f"{text},{label}" for text, label in sentences(24, seed)]
        (place / "my_table" / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    for folder, header, names, splits in (
        ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "01", ("dev",)),
        ("MNLI", "gold_label\ta\tb\tsentence1\tsentence2", None, ("dev_matched", "dev_mismatched")),
        ("RTE", "label\ta\tb\tsentence1\tsentence2", None, ("dev",)),
    ):
        (place / "GLUE_DIR" / folder).mkdir(parents=True)
        named = names or ("entailment", "not_entailment" if folder == "RTE" else "neutral")
        for split in ("train", *splits):
            rows = [f"{named[label]}\t1\t2\t{text}\t{text}" for text, label in sentences(16, 3)]
            path = place / "GLUE_DIR" / folder / f"{split}.tsv"
            path.write_text("\n".join([header, *rows]) + "\n")
    write_bert(place / "bert-base-uncased", ["the", "is", ".", *WORDS, *GOOD, *BAD])
    write_bert(place / "bert-base-chinese", ["。", *CHARACTERS])
    return place


def small(command: Command, only_config: bool) -> list[str]:
    """Returns the arguments with which a command runs here; of a launcher what it would run."""
    arguments = command.arguments
    if command.name.startswith("launch"):
        dash = arguments.index("--")
        return [*arguments[:dash], "--dry_run", *arguments[dash:]]
    keys = dict(SMALL.get(command.name, {}))
    if command.name == "prepare" and command.value("config.vocab") is None:
        keys["vocab_size"] = VOCAB_SIZE
    sizes = MODEL if command.name == "pretrain" else ()
    smaller = [f"--config.{key}={value}" for key, value in keys.items()]
    return [*arguments, *sizes, *smaller, *(["--print_config"] if only_config else [])]


def plain(text: str) -> str:
    """The words of a table or box without its lines and columns."""
    return re.sub(r"[│ ]+", " ", text)


def assert_quoted(text: str, plans: list[str]) -> None:
    """Asserts that what a page shows of plans is in them, line by line."""
    for line in (
        line for name, body in BLOCK.findall(text) if name == "text" for line in body.split("\n")
    ):
        assert any(plain(line).strip() in plain(plan) for plan in plans), line


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_a_recipe_can_be_followed(page, place, monkeypatch, capsys):
    """Every command ends well where the ones before it left off, then the page's programs.

    The runs that later commands read are trained; of the other trainings the config is made. The
    hours of a plan are those of the text.
    """
    monkeypatch.chdir(place)
    text = page.read_text("utf-8")
    commands = commands_of(page, place)
    assert len(commands) > 4
    read = {command.value("init_from") for command in commands}
    read |= {command.value("run_dir") for command in commands if command.name not in TRAININGS}
    elsewhere = {c.value("run_dir") for c in commands if c.name.startswith("launch")}
    plans = []
    for command in commands:
        if command.value("run_dir") in elsewhere and not command.name.startswith("launch"):
            continue
        if (command.value("output") or "").endswith(".zip"):
            continue  # of all tasks, as tests/commands/use/test_submit.py makes it
        only_config = command.name in TRAININGS and command.value("run_dir") not in read
        assert run(*small(command, only_config)) == 0, " ".join(command.arguments)
        shown = capsys.readouterr().out
        if command.name == "plan":
            plans.append(shown)
            (hours,) = re.findall(r"\bhours +([\d.]+) without", shown)
            assert re.search(rf"(?<![\d.]){re.escape(hours)}(?![\d.])", text), (hours, command)
    assert_quoted(text, plans)
    for program in (body for name, body in BLOCK.findall(text) if name == "python"):
        if "transformers" not in program or find_spec("torch"):
            exec(compile(program, page.name, "exec"), {})


def test_the_plan_that_is_explained_is_the_one_that_is_made(monkeypatch, capsys):
    """docs/distributed.md explains a plan line by line."""
    text = (ROOT / "docs" / "distributed.md").read_text("utf-8")
    (shell,) = (
        body for _, body in BLOCK.findall(text) if "ptft plan" in body and "bfloat16" in body
    )
    monkeypatch.chdir(ROOT)
    assert run(*shlex.split(shell)[1:]) == 0
    assert_quoted(text.partition(shell)[2].partition("###")[0], [capsys.readouterr().out])
