"""The Python API: `import ptft_jax` is quick, configs are found by name, trained models answer."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import (
    finetune_flags,
    losses,
    prepare_corpus,
    pretrain_flags,
    results,
    run,
    sentences,
    tree,
)

import ptft_jax
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.kinds.classification import Classification


def python(code: str) -> str:
    """Runs a fresh Python and returns what it printed."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_nothing_heavy():
    """A script that only asks for the version must not wait for JAX, nor claim an accelerator."""
    code = (
        "import json, sys, time; before = time.monotonic(); import ptft_jax; "
        "took = time.monotonic() - before; "
        "print(json.dumps([took, dir(ptft_jax), sorted(sys.modules)]))"
    )
    took, names, modules = json.loads(python(code))
    assert not {"jax", "transformers", "flax", "numpy", "absl"} & set(modules)
    assert took < 0.2
    assert {"load_run", "get_config", "build_model", "pretrain", "finetune"} <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'load_model'"):
        _ = ptft_jax.load_model


def test_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    """A bare name, its file, and a file of one's own are the same door."""
    monkeypatch.chdir(tmp_path)
    config = ptft_jax.get_config("pretrain/bert_base")
    assert config.phases[0]["max_seq_length"] == 512
    assert config.to_dict() == ptft_jax.get_config("configs/pretrain/bert_base.py").to_dict()
    assert ptft_jax.get_config("finetune/glue:mrpc").epochs == 5.0
    (tmp_path / "mine.py").write_text(
        "import ptft_jax\ndef get_config():\n"
        "    config = ptft_jax.get_config('pretrain/bert_tiny')\n"
        "    config.seed = 7\n    return config\n"
    )
    assert ptft_jax.get_config("mine.py").seed == 7
    with pytest.raises(ConfigError, match="nearest is pretrain/bert_base; shipped are data/text, "):
        ptft_jax.get_config("pretrain/bert_bas")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with the data and the runs that docs/python.md names, tiny ones."""
    place = tmp_path_factory.mktemp("python_api")
    data, runs = prepare_corpus(place), place / "runs"
    data.rename(place / "corpus")
    assert run(*pretrain_flags(place / "corpus", runs / "mini", steps=3)) == 0
    write_table(place / "table")
    flags = finetune_flags("text.py", place / "table", runs / "mini", runs / "reviews")
    assert run(*flags) == 0
    assert run("export", f"--run_dir={runs}/mini", f"--out_dir={place}/my_bert") == 0
    return place


def write_table(folder: Path, names=("bad", "good"), seed=1) -> Path:
    """Writes a table of texts with labels."""
    folder.mkdir()
    for split, count in (("train", 16), ("dev", 8)):
        rows = [f"{text}\t{names[label]}" for text, label in sentences(count, seed)]
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]))
    return folder


def test_the_documented_code_runs(place, monkeypatch, capsys):
    """Every block of docs/python.md, from top to bottom in one notebook."""
    page = Path(__file__).resolve().parent.parent / "docs" / "python.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    assert len(blocks) > 5
    monkeypatch.chdir(place)
    names = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    assert names["vectors"].shape == (3, 32)
    shown = capsys.readouterr().out
    assert "step 20/20" in shown
    assert "[MASK] and [MASK] [('" in shown
    assert "768 5.0" in shown


def test_predictions_are_those_of_the_command(place, capsys):
    """The same texts, the same words and labels, from a run and from its Hugging Face folder."""
    asked = {"runs/mini": "the [MASK]", "runs/reviews": "a bird", "my_bert": "[MASK]"}
    for folder, text in asked.items():
        assert run("predict", f"--run_dir={place / folder}", "--json", "--top=2", text) == 0
        shown = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert ptft_jax.load_run(place / folder).predict([text], top=2) == [shown]
    mini, again = (ptft_jax.load_run(place / name) for name in ("runs/mini", "my_bert"))
    assert mini.predict(["the [MASK]"]) == again.predict(["the [MASK]"])
    assert mini.predict([]) == []


def test_what_a_run_says_of_itself(place):
    """Config, labels and heads are there to look at, and a notebook shows them."""
    mini, reviews = (ptft_jax.load_run(place / "runs" / name) for name in ("mini", "reviews"))
    assert (mini.config.steps, mini.step, mini.labels) == (3, 3, None)
    assert reviews.labels == ("bad", "good")
    assert reviews.model_config.heads == ("pooler", "classification")
    assert repr(mini).endswith("runs/mini', step 3, heads pooler, mlm, nsp)")
    assert mini.tokenizer.decode(mini.tokenizer.encode_batch(["the river"])[0]) == "the river"
    hf = ptft_jax.load_run(place / "my_bert")
    assert (hf.config.hf_dir, hf.step) == (str(place / "my_bert"), 0)


def test_mistakes_in_a_notebook(place):
    """What is cut is said, and what cannot be asked is one error, in the words of the command."""
    mini, reviews = (ptft_jax.load_run(place / "runs" / name) for name in ("mini", "reviews"))
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 16 tokens") as said:
        reviews.predict(["river " * 30, "a bird"])
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than the 32 tokens"):
        assert len(mini.predict(["[MASK] " + "river " * 40])[0]["masks"]) == 1
    with pytest.raises(ConfigError, match=r"'a bird' has no \[MASK\] to fill in"):
        mini.predict(["a bird"])
    with pytest.raises(ConfigError, match=r"'a bird' is a single text"):
        reviews.predict("a bird")
    with pytest.raises(ConfigError, match="expected 'last', 'best' or one of"):
        ptft_jax.load_run(place / "runs" / "mini", checkpoint="7")
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "config.json").write_text('{"model_type": ')
    with pytest.raises(DataError, match=r"config\.json is not JSON"):
        ptft_jax.load_run(place / "broken")


def test_training_from_python_is_training_from_the_command_line(place, capsys):
    """The same losses and scores to the last bit, and the same files; without `say` no word."""
    config = ptft_jax.get_config("pretrain/bert_tiny")
    started = ptft_jax.load_run(place / "runs" / "mini").config
    config.update(started)
    found = ptft_jax.pretrain(config, place / "runs" / "again")
    assert found == {"dev": results(place / "runs" / "mini")["dev"]}
    assert losses(place / "runs" / "again") == losses(place / "runs" / "mini")
    lines = []
    assert ptft_jax.pretrain(config, place / "runs" / "again", say=lines.append) == found
    assert lines[-1] == "all 3 updates are made already: nothing to do"
    assert capsys.readouterr().out == ""
    # A folder is a folder, as a Path or as a str.
    ptft_jax.pretrain(config, place / "runs" / "from_mini", place / "runs" / "mini")
    assert ptft_jax.load_run(place / "runs" / "from_mini").step == 3
    with pytest.raises(AttributeError, match='Key "learning_rate" does not exist'):
        config.learning_rate = 1.0
    with config.unlocked():
        config.learning_rate = 1.0
    with pytest.raises(
        ConfigError, match="no config of `ptft pretrain`: unknown are learning_rate"
    ):
        ptft_jax.pretrain(config, place / "runs" / "never")
    with pytest.raises(
        ConfigError, match="config is a config of `ptft pretrain`; shipped are fine"
    ):
        ptft_jax.finetune(started, None, place / "runs" / "never")
    assert not (place / "runs" / "never").exists()


def test_a_run_scores_its_own_data_and_others(place, tmp_path, capsys):
    """Its own as in training; others of the same form; what would be another task is refused."""
    reviews = ptft_jax.load_run(place / "runs" / "reviews")
    own = reviews.evaluate()
    assert own["dev"] == pytest.approx(results(place / "runs" / "reviews")["dev"], rel=1e-5)
    others = reviews.evaluate(write_table(tmp_path / "others", seed=5))
    before, flags = (
        tree(reviews.path),
        [f"--run_dir={reviews.path}", f"--data_dir={tmp_path}/others"],
    )
    assert run("evaluate", *flags) == 0
    assert f"{others['dev']['loss']:.4f}" in capsys.readouterr().out
    assert tree(reviews.path) == before
    assert others["dev"].keys() == own["dev"].keys()
    assert others != own
    # A test split is scored when it is asked for.
    rows = (tmp_path / "others" / "dev.tsv").read_text()
    (tmp_path / "others" / "test.tsv").write_text(rows)
    tested = reviews.evaluate(tmp_path / "others", split="test")
    assert tested == {"test": pytest.approx(others["dev"], rel=1e-5)}
    config = ptft_jax.get_config("finetune/text")
    config.data_dir = str(tmp_path / "others")
    (said,) = Classification(config).remarks([])
    assert said.startswith("test: 8 examples that are not used here; `ptft evaluate --split=test`")
    with pytest.raises(ConfigError, match=r"no such split; with labels there are train, dev\."):
        reviews.evaluate(split="test")
    with pytest.raises(DataError, match=r"label '\w+' .* is not in the set: bad, good"):
        reviews.evaluate(write_table(tmp_path / "named", names=("no", "yes")))
    mini = ptft_jax.load_run(place / "runs" / "mini")
    again = mini.evaluate(shutil.copytree(place / "corpus", tmp_path / "corpus"))
    assert again["dev"] == pytest.approx(results(place / "runs" / "mini")["dev"], rel=1e-5)
    with pytest.raises(ConfigError, match="no task of its own"):
        ptft_jax.load_run(place / "my_bert").evaluate()
