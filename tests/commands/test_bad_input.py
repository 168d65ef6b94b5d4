"""Mistakes end with one clear message and exit code 2 or 65, before anything is compiled.

Every case runs a whole command line and checks that no file has appeared, changed or gone.
"""

import contextlib
import json
import os
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import finetune_flags, pretrain_flags, run, tree, write_corpus
from foreign_folders import make_run
from safetensors.numpy import load_file, save_file

import ptft_jax
from ptft_jax.runs.folder import RunFolder, host_params, open_run
from ptft_jax.training.step import TrainState

PREPARE = "--config=configs/data/text.py"
PRETRAIN = "--config=configs/pretrain/bert_tiny.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus, a Hugging Face folder of random weights, runs and tables."""
    place = tmp_path_factory.mktemp("bad_input")
    write_corpus(place / "text.txt", 12)
    flags = ["--config.vocab_size=200", "--config.dev_fraction=0.2", f"--out_dir={place}/data"]
    assert run("prepare", PREPARE, f"--config.inputs={place}/text.txt", *flags) == 0
    make_run(place)

    reshaped = place / "reshaped"
    shutil.copytree(place / "run", reshaped)
    record = json.loads((reshaped / "config.json").read_text())
    record["model"]["intermediate_size"] = 128
    (reshaped / "config.json").write_text(json.dumps(record))
    shutil.copytree(place / "run", place / "damaged")
    (place / "damaged" / "config.json").write_text('{"format": "ptft_jax run", "format_ver')

    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        folder = place / f"hf_{name}"
        shutil.copytree(place / "hf", folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["bert.pooler.dense.bias"][3] = value
        save_file(tensors, folder / "model.safetensors")
    _save_changed(place / "run", place / "nan", np.nan)

    shutil.copytree(place / "data", place / "corrupt")
    shard = place / "corrupt" / "train" / "tokens-00000.bin"
    tokens = np.fromfile(shard, np.uint16)
    tokens[7] = 60_000
    tokens.tofile(shard)

    rows = ["the river is fine\tgood", "the stone is not\tbad"]
    tables = {
        "table": ("text\tlabel", rows, [*rows, "a b\tgood"]),
        "strange_label": ("text\tlabel", rows, [rows[0], "the bird\tugly"]),
        "no_column": ("sentence\tlabel", rows, rows),
        "no_text": ("text\tlabel", rows, [rows[0], " \tbad"]),
        "one_class": ("text\tlabel", [rows[0], rows[0]], rows),
        "one_score": ("text\tlabel", ["the river\t2", "a stone\t2.0"], ["the bird\t1"]),
        "no_rows": ("text\tlabel", rows, []),
    }
    for name, (header, train, dev) in tables.items():
        (place / name).mkdir()
        for split, lines in (("train", train), ("dev", dev)):
            (place / name / f"{split}.tsv").write_text("\n".join([header, *lines]) + "\n")
    (place / "choices").mkdir()
    for split in ("train", "dev"):
        lines = ['{"context": "", "choices": ["the river", "the stone"]}\n'] * 2
        (place / "choices" / f"{split}.jsonl").write_text("".join(lines))
    (place / "latin").mkdir()
    for split in ("train", "dev"):
        (place / "latin" / f"{split}.tsv").write_bytes(b"text\tlabel\nfine\tgood\ncaf\xe9\tbad\n")
    (place / "latin.txt").write_bytes(b"one line\ncaf\xe9\n")
    (place / "empty.txt").write_text("\n\n \n")
    (place / "few.txt").write_text("One document only.\n")
    (place / "a_file").write_text("in the way")
    (place / "occupied").mkdir()
    (place / "occupied" / "notes.txt").write_text("mine")
    (place / "config.py").write_text("def get_config():\n    return not_a_name\n")
    return place


def _save_changed(source: Path, target: Path, value: float) -> None:
    """Copies an imported run whose first layer norm scales by `value`."""
    opened = open_run(source)
    shutil.copytree(source, target)
    shutil.rmtree(target / "checkpoints")
    params = host_params(opened.params)
    norm = params["encoder"]["embeddings"]["layer_norm"]
    norm["scale"] = np.full_like(norm["scale"], value)
    state = TrainState.new(jax.tree.map(jnp.asarray, params), None)
    with RunFolder(target).checkpoints(opened.record, opened.tokenizer) as checkpoints:
        checkpoints.save(0, state, 0, {})


@pytest.fixture
def no_compilation(monkeypatch):
    """Fails the test when anything is compiled."""

    def forbidden(*_, **__):
        raise AssertionError("something was compiled before the mistake was found")

    for name in ("init_state", "make_train_step"):
        monkeypatch.setattr(f"ptft_jax.runs.train.{name}", forbidden)
    monkeypatch.setattr(jax, "jit", forbidden)


def _prepare(place, *flags):
    return ["prepare", PREPARE, f"--out_dir={place}/new", *flags]


def _pretrain(place, *flags, **changes):
    data_dir = changes.pop("data_dir", place / "data")
    run_dir = changes.pop("run_dir", place / "new")
    return [*pretrain_flags(data_dir, run_dir, **changes), *flags]


def _finetune(place, table="table", config="text.py", source="hf", **changes):
    return finetune_flags(config, place / table, place / source, place / "new", **changes)


# Name: (exit code, command line, what the message has to say).
CASES = {
    "no command": (2, lambda p: ["pretran"], ["'pretran'", "did you mean 'pretrain'"]),
    "unknown flag": (2, lambda p: ["export", "--rundir=x"], ["'rundir'", "run_dir"]),
    "no run_dir": (2, lambda p: ["evaluate"], ["--run_dir is missing"]),
    "a pattern in the run's path": (
        2,
        lambda p: _pretrain(p, run_dir=p / "exp[1]" / "run"),
        ["exp[1]/run: checkpoints cannot be read again from a path with '[1]' in it", "rename"],
    ),
    "a run's path that is not UTF-8": (
        2,
        lambda p: ["import", f"--hf_dir={p}/hf", f"--run_dir={p}/caf\udce9"],
        ["caf\\udce9' is not UTF-8"],
    ),
    "no out_dir": (2, lambda p: ["export", f"--run_dir={p}/run"], ["--out_dir is missing"]),
    "no hf_dir": (2, lambda p: ["import", f"--run_dir={p}/new"], ["--hf_dir is missing"]),
    "no config": (2, lambda p: ["pretrain"], ["--config is missing", "pretrain/bert_tiny"]),
    "no such config": (
        2,
        lambda p: ["pretrain", "--config=configs/pretrain/bert_tyni.py"],
        ["there is no Python file", "nearest is pretrain/bert_tiny;", "finetune/glue"],
    ),
    "config of another command": (
        2,
        lambda p: ["pretrain", PREPARE, f"--run_dir={p}/new"],
        ["is a config of `ptft prepare`; shipped are pretrain/bert_base"],
    ),
    "broken config": (
        2,
        lambda p: ["pretrain", f"--config={p}/config.py"],
        ["NameError", "not_a_name", "get_config()"],
    ),
    "two configs": (2, lambda p: ["pretrain", PRETRAIN, PRETRAIN], ["given 2 times"]),
    "mistyped key": (
        2,
        lambda p: _pretrain(p, "--config.optimizer.learning_rat=1"),
        ["'optimizer.learning_rat'", "nearest key is 'optimizer.learning_rate'"],
    ),
    "section": (
        2,
        lambda p: _pretrain(p, "--config.mesh=8"),
        ["'mesh' is a section", "mesh.across_hosts"],
    ),
    "wrong type": (
        2,
        lambda p: _pretrain(p, batch_size="many"),
        ["--config.batch_size=many", "a whole number", "64"],
    ),
    "wrong type of an unset key": (
        2,
        lambda p: _pretrain(p, **{"model.vocab_size": "x"}),
        ["--config.model.vocab_size=x", "a whole number"],
    ),
    "no such format": (
        2,
        lambda p: _pretrain(p, input_format="pairs"),
        ["input_format='pairs'", "full_sentences"],
    ),
    "no such masking": (
        2,
        lambda p: _pretrain(p, masking="words"),
        ["masking='words'", "whole_word"],
    ),
    "replacements above one": (
        2,
        lambda p: _pretrain(p, mask_replace_prob=0.8, random_replace_prob=0.3),
        ["mask_replace_prob=0.8", "random_replace_prob=0.3", "at most 1"],
    ),
    "phase after the end": (
        2,
        lambda p: _pretrain(p, phases="({'step': 60, 'max_seq_length': 48},)"),
        ["number 1", "'step': 60", "less than steps=6"],
    ),
    "phase with a mistyped key": (
        2,
        lambda p: _pretrain(p, phases="({'step': 3, 'max_seq_len': 48},)"),
        ["'max_seq_len' cannot change in a phase", "nearest is 'max_seq_length'"],
    ),
    "phase too long for the model": (
        2,
        lambda p: _pretrain(p, phases="({'step': 3, 'max_seq_length': 64},)"),
        ["max_seq_length=64", "48 positions"],
    ),
    "phase whose batch does not divide": (
        2,
        lambda p: _pretrain(p, phases="({'step': 3, 'batch_size': 12},)"),
        ["batch_size=12 is not divisible", "nearest: 8 or 16"],
    ),
    "not a bool": (2, lambda p: _pretrain(p, **{"model.remat": "maybe"}), ["true or false"]),
    "wrong choice": (2, lambda p: _pretrain(p, "--config_change=yes"), ["refuse|allow"]),
    "stray argument": (2, lambda p: _pretrain(p, "steps=3"), ["'steps=3'", "expected flags only"]),
    "no inputs": (2, lambda p: _prepare(p), ["--config.inputs is empty"]),
    "missing file": (2, lambda p: _prepare(p, "--config.inputs=nope.txt"), ["nope.txt"]),
    "not UTF-8 text": (
        65,
        lambda p: _prepare(p, f"--config.inputs={p}/latin.txt"),
        ["latin.txt", "line 2", "not UTF-8"],
    ),
    "empty corpus": (
        65,
        lambda p: _prepare(p, f"--config.inputs={p}/empty.txt"),
        ["corpus is empty", "empty.txt"],
    ),
    "too few documents": (
        65,
        lambda p: _prepare(p, f"--config.inputs={p}/few.txt"),
        ["1 documents", "at least 4"],
    ),
    "prepare into a file": (
        2,
        lambda p: ["prepare", PREPARE, f"--config.inputs={p}/text.txt", f"--out_dir={p}/a_file"],
        ["a_file is a file"],
    ),
    "prepare below a file": (
        2,
        lambda p: ["prepare", PREPARE, f"--config.inputs={p}/text.txt", f"--out_dir={p}/a_file/x"],
        ["a_file is a file"],
    ),
    "prepare over something": (
        2,
        lambda p: ["prepare", PREPARE, f"--config.inputs={p}/text.txt", f"--out_dir={p}/occupied"],
        ["occupied", "not empty"],
    ),
    "no corpus": (2, lambda p: _pretrain(p, data_dir=p / "occupied"), ["not a prepared corpus"]),
    "no data_dir": (2, lambda p: _pretrain(p, data_dir=""), ["data_dir is missing"]),
    "vocabulary too small": (
        2,
        lambda p: _pretrain(p, **{"model.vocab_size": 100}),
        ["--config.model.vocab_size=100", "token ids up to"],
    ),
    "corrupt shard": (
        65,
        lambda p: _pretrain(p, data_dir=p / "corrupt"),
        ["tokens-00000.bin", "prepare the corpus again"],
    ),
    "mesh": (
        2,
        lambda p: _pretrain(p, **{"mesh.data": 3, "mesh.fsdp": 1}),
        ["mesh.data=3", "there are 8", "for example"],
    ),
    "batch": (2, lambda p: _pretrain(p, batch_size=12), ["batch_size=12", "nearest: 8 or 16"]),
    "accumulate": (
        2,
        lambda p: _pretrain(p, accumulate=3),
        ["batch_size=16", "accumulate=3", "nearest: 24"],
    ),
    "evaluation batch": (2, lambda p: _finetune(p, eval_batch_size=5), ["eval_batch_size=5"]),
    "sequence": (
        2,
        lambda p: _pretrain(p, max_seq_length=64),
        ["max_seq_length=64", "48 positions"],
    ),
    "heads": (
        2,
        lambda p: _pretrain(p, **{"model.num_attention_heads": 5}),
        ["hidden_size=32", "num_attention_heads=5"],
    ),
    "attention without a GPU": (
        2,
        lambda p: _pretrain(p, **{"model.attention": "kernel"}),
        ["model.attention=kernel", "NVIDIA GPUs", "a cpu", "Use model.attention=xla or"],
    ),
    "fine-tuning attention without a GPU": (
        2,
        lambda p: _finetune(p, **{"model.attention": "cudnn"}),
        ["model.attention=cudnn", "NVIDIA GPUs", "a cpu", "Use model.attention=xla or"],
    ),
    "unknown attention": (
        2,
        lambda p: _pretrain(p, **{"model.attention": "flash"}),
        ["model.attention='flash'", "auto, xla, cudnn, kernel"],
    ),
    "kernels without a GPU": (
        2,
        lambda p: _finetune(p, **{"model.fused": "kernel"}),
        ["model.fused=kernel", "cpu", "Use model.fused=auto"],
    ),
    "warm-up": (
        2,
        lambda p: _pretrain(p, **{"schedule.warmup_steps": 9, "schedule.warmup_ratio": 0}),
        ["schedule.warmup_steps=9", "steps=6"],
    ),
    "optimizer": (
        2,
        lambda p: _pretrain(p, **{"optimizer.name": "adam"}),
        ["'adam'", "nearest: adamw"],
    ),
    "seed": (2, lambda p: _pretrain(p, seed=-1), ["--config.seed=-1", "from 0"]),
    "steps": (2, lambda p: _pretrain(p, steps=0), ["--config.steps=0", "at least 1"]),
    "interval": (2, lambda p: _pretrain(p, log_every=0), ["--config.log_every=0", "at least 1"]),
    "epochs": (2, lambda p: _finetune(p, epochs="nan"), ["--config.epochs=nan", "above 0"]),
    "buckets": (2, lambda p: _finetune(p, length_buckets="(32,'a')"), ["length_buckets", "'a'"]),
    "run_dir is a file": (2, lambda p: _pretrain(p, f"--run_dir={p}/a_file"), ["is a file"]),
    "run_dir below a file": (2, lambda p: _pretrain(p, f"--run_dir={p}/a_file/x"), ["is a file"]),
    "run_dir is a corpus": (
        2,
        lambda p: _pretrain(p, f"--run_dir={p}/data"),
        ["but no config.json of a run"],
    ),
    "run_dir holds other things": (
        2,
        lambda p: _pretrain(p, f"--run_dir={p}/occupied"),
        ["/occupied holds ", "but no config.json of a run: expected a new folder"],
    ),
    "run_dir is a HF folder": (2, lambda p: _pretrain(p, f"--run_dir={p}/hf"), ["ptft import"]),
    "init_from another shape": (
        2,
        lambda p: _pretrain(p, f"--init_from={p}/hf", **{"model.intermediate_size": 32}),
        ["another shape", "--config.model.intermediate_size=64 (now 32)"],
    ),
    "init_from nothing": (
        2,
        lambda p: _finetune(p, source="nowhere"),
        ["--init_from=", "no such folder"],
    ),
    "init_from something else": (
        2,
        lambda p: _finetune(p, source="occupied"),
        ["no config.json", "a run folder or a Hugging Face folder"],
    ),
    "no init_from": (
        2,
        lambda p: [flag for flag in _finetune(p) if not flag.startswith("--init_from")],
        ["--init_from is missing"],
    ),
    "no task": (2, lambda p: _finetune(p, config="glue.py"), ["glue.py:TASK"]),
    "unknown task": (2, lambda p: _finetune(p, config="glue.py:mrcp"), ["'mrcp'", "'mrpc'"]),
    "task where none is": (
        2,
        lambda p: _finetune(p, config="../pretrain/bert_tiny.py:x"),
        ["get_config()"],
    ),
    "no GLUE": (2, lambda p: _finetune(p, config="glue.py:sst2"), ["'SST-2'"]),
    "no table": (2, lambda p: _finetune(p, table="nowhere"), ["nowhere", "not a folder"]),
    "not UTF-8 table": (65, lambda p: _finetune(p, table="latin"), ["line 3", "not UTF-8"]),
    "strange label": (
        65,
        lambda p: _finetune(p, table="strange_label"),
        ["dev.tsv, line 3", "'ugly'", "not in the set: bad, good"],
    ),
    "no column": (65, lambda p: _finetune(p, table="no_column"), ["no column 'text'"]),
    "no text": (
        65,
        lambda p: _finetune(p, table="no_text"),
        ["dev.tsv, line 3: column 'text' holds no text", "take the row out"],
    ),
    "one class": (65, lambda p: _finetune(p, table="one_class"), ["all 2 rows have the label"]),
    "one score": (
        65,
        lambda p: _finetune(p, table="one_score", **{"table.regression": True}),
        ["train.tsv: all 2 rows have the score 2"],
    ),
    "no rows": (65, lambda p: _finetune(p, table="no_rows"), ["dev.tsv has no rows"]),
    "choices without labels": (
        65,
        lambda p: _finetune(p, table="choices", config="choice.py"),
        ["train.jsonl has no labels to learn from"],
    ),
    "long sequences": (
        2,
        lambda p: _finetune(p, max_seq_length=64),
        ["max_seq_length=64", "48 positions"],
    ),
    "no run": (2, lambda p: ["evaluate", f"--run_dir={p}/occupied"], ["no run here"]),
    "no checkpoint": (
        2,
        lambda p: ["predict", f"--run_dir={p}/run", "--checkpoint=7", "a"],
        ["--checkpoint=7", "'last', 'best' or one of 0"],
    ),
    "imported run": (
        2,
        lambda p: ["evaluate", f"--run_dir={p}/run"],
        ["imported", "ptft finetune"],
    ),
    "checkpoint of another shape": (
        65,
        lambda p: ["export", f"--run_dir={p}/reshaped", f"--out_dir={p}/new"],
        ["does not hold what this config needs", "intermediate"],
    ),
    "damaged run": (
        65,
        lambda p: ["export", f"--run_dir={p}/damaged", f"--out_dir={p}/new"],
        ["config.json is not JSON"],
    ),
    "export over something": (
        2,
        lambda p: ["export", f"--run_dir={p}/run", f"--out_dir={p}/occupied"],
        ["occupied"],
    ),
    "export below a file": (
        2,
        lambda p: ["export", f"--run_dir={p}/run", f"--out_dir={p}/a_file/x"],
        ["a_file"],
    ),
    "architecture": (
        2,
        lambda p: [
            "export",
            f"--run_dir={p}/run",
            f"--out_dir={p}/new",
            "--architecture=BertForMaskedLM",
        ],
        ["BertForMaskedLM", "expected one of BertModel", "BertForSequenceClassification"],
    ),
    "import over something": (
        2,
        lambda p: ["import", f"--hf_dir={p}/hf", f"--run_dir={p}/occupied"],
        ["occupied", "but no config.json of a run"],
    ),
    "import of NaN": (
        65,
        lambda p: ["import", f"--hf_dir={p}/hf_nan", f"--run_dir={p}/new"],
        ["hf_nan: NaN or infinity in tensors bert.pooler.dense.bias", "Take another folder"],
    ),
    "import of infinity": (
        65,
        lambda p: ["import", f"--hf_dir={p}/hf_infinite", f"--run_dir={p}/new"],
        ["NaN or infinity in tensors bert.pooler.dense.bias", "65504"],
    ),
    "init_from weights with NaN": (
        65,
        lambda p: _finetune(p, source="hf_nan"),
        ["hf_nan: NaN or infinity in tensors bert.pooler.dense.bias"],
    ),
    "init_from a run with NaN": (
        65,
        lambda p: _finetune(p, source="nan"),
        [
            "nan, step 0: parameter encoder.embeddings.layer_norm.scale is not finite",
            "learning_rate",
        ],
    ),
    "predict with NaN": (
        65,
        lambda p: ["predict", f"--run_dir={p}/nan", "a text"],
        ["parameter encoder.embeddings.layer_norm.scale is not finite"],
    ),
    "export of NaN": (
        65,
        lambda p: ["export", f"--run_dir={p}/nan", f"--out_dir={p}/new"],
        ["parameter encoder.embeddings.layer_norm.scale is not finite"],
    ),
    "import of nothing": (
        2,
        lambda p: ["import", f"--hf_dir={p}/nowhere", f"--run_dir={p}/new"],
        ["nowhere"],
    ),
    "no texts": (2, lambda p: ["predict", f"--run_dir={p}/run"], ["--input=FILE"]),
    "no text file": (
        2,
        lambda p: ["predict", f"--run_dir={p}/run", "--input=nope"],
        ["--input=nope", "no such file"],
    ),
    "not UTF-8 input": (
        65,
        lambda p: ["predict", f"--run_dir={p}/run", f"--input={p}/latin.txt"],
        ["latin.txt, line 2", "not UTF-8"],
    ),
    "empty input": (
        65,
        lambda p: ["predict", f"--run_dir={p}/run", f"--input={p}/empty.txt"],
        ["empty.txt", "no text"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_clear_message(case, place, no_compilation, capsys):
    """The message names the value and the way out; nothing is compiled, nothing is written."""
    code, arguments, said = CASES[case]
    before = tree(place)
    assert run(*arguments(place)) == code
    assert tree(place) == before
    message = capsys.readouterr().err
    assert message.startswith("ptft: error: ")
    assert "Traceback" not in message
    for part in said:
        assert part in message, message


def test_pairs_asked_of_from_a_file_name_the_file(place, tmp_path, capsys):
    """A file's text that cannot be asked about is an error of data (65), not of the flags."""
    (tmp_path / "in.txt").write_text("one\ttwo\nthree\n")
    assert run("predict", f"--run_dir={place}/run", f"--input={tmp_path}/in.txt") == 65
    message = capsys.readouterr().err
    assert "in.txt" in message
    assert "'three' has 0 tabs" in message


def test_outputs_that_are_not_finite_are_no_prediction(place, tmp_path, capsys):
    """Parameters that are finite and far too large gave a label with a score of NaN."""
    _save_changed(place / "run", tmp_path / "large", 3e38)
    assert run("predict", f"--run_dir={tmp_path}/large", "--json", "a text", "another") == 65
    said = capsys.readouterr()
    assert not said.out
    assert "the model's outputs in 2 of 2 rows are not finite (NaN or infinity)" in said.err


def test_an_import_that_breaks_off_leaves_nothing(place, monkeypatch):
    """A full disk while the checkpoint is written must not leave a run without one."""

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptft_jax.training.checkpoints.store.Checkpoints.save", broken)
    before = tree(place)
    with contextlib.suppress(OSError):
        run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new")
    assert tree(place) == before


def test_an_export_that_the_disk_does_not_take_leaves_nothing(place, capsys):
    """What safetensors raised for it was a traceback, and exit code 1."""
    before, limits = tree(place), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code = run("export", f"--run_dir={place}/run", f"--out_dir={place}/new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 74
    assert "could not be written: File too large. Expected room" in capsys.readouterr().err
    assert tree(place) == before


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    place, tmp_path, capsys, monkeypatch
):
    """All texts were encoded first, and the mend was to make room."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    (tmp_path / "in.txt").write_text("the river\n")
    files = [f"--input={tmp_path}/in.txt", f"--output={tmp_path}/vectors/out.npy"]
    assert run("embed", f"--run_dir={place}/run", *files) == 2
    assert f"{tmp_path} cannot be written to; expected" in capsys.readouterr().err


def test_no_permission_is_said_without_a_traceback(place, monkeypatch, capsys):
    """A folder of another user is a matter of the command line, not a bug."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/somewhere/else")

    monkeypatch.setattr("ptft_jax.commands.use.import_hf.read_hf_folder", refuse)
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new") == 2
    assert "/somewhere/else: permission denied" in capsys.readouterr().err


def test_a_tilde_is_the_home_folder(place, tmp_path, monkeypatch):
    """A shell leaves the ~ of `--flag=~/x` to the program, which made a folder called "~"."""
    shutil.copytree(place / "hf", tmp_path / "home" / "hf")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert run("import", "--hf_dir=~/hf", "--run_dir=~/runs/a") == 0
    assert os.listdir(tmp_path) == ["home"]
    assert ptft_jax.load_run("~/runs/a").path == tmp_path / "home" / "runs" / "a"


def test_a_long_name_is_a_name(place, tmp_path):
    """What is made beside it has a short name of its own; modes follow the umask."""
    before = os.umask(0o027)
    try:
        assert run("import", f"--hf_dir={place}/hf", f"--run_dir={tmp_path}/{'x' * 248}") == 0
    finally:
        os.umask(before)
    assert (tmp_path / ("x" * 248)).stat().st_mode & 0o777 == 0o750
