"""The model card of an exported run: scores of that checkpoint, its history, names on the hub."""

import shutil
from pathlib import Path

import pytest
import yaml
from command_line import finetune_flags, metrics, run
from foreign_folders import make_folders


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model in a hub's cache, and `run`, fine-tuned from it to step 2 and on to 4 otherwise."""
    place = make_folders(tmp_path_factory.mktemp("card"))
    cached = place / "models--some-org--tiny-bert" / "snapshots" / "0a1b2c"
    shutil.copytree(place / "hf", cached)
    flags = finetune_flags("text.py", place / "table", cached, place / "run_of_it", eval_every=1)
    flags += ["--config.keep_last=9", "--config.checkpoint_every=1"]
    assert run(*flags, "--config.steps=2") == 0
    changed = ["--config.steps=4", "--config.optimizer.learning_rate=0.01"]
    assert run(*flags, *changed, "--config_change=allow") == 0
    return place


def card_of(place: Path, out_dir: Path, *flags: str) -> tuple[dict, str]:
    assert run("export", f"--run_dir={place}/run_of_it", f"--out_dir={out_dir}", *flags) == 0
    _, block, body = (out_dir / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(block), body


def test_a_card_tells_of_the_checkpoint_that_was_exported(place, tmp_path):
    """Scores of an earlier step were left out, and changes of settings stood in one table cell."""
    for step, changes in ((2, 0), (4, 2)):
        meta, body = card_of(place, tmp_path / str(step), f"--checkpoint={step}")
        logged = {line["step"]: line for line in metrics(place / "run_of_it") if "split" in line}
        scored = meta["model-index"][0]["results"]
        found = {m["type"]: m["value"] for result in scored for m in result["metrics"]}
        assert found == {name: logged[step][name] for name in ("loss", "accuracy")}
        assert f"| steps | {step} |" in body
        lines = [line for line in body.splitlines() if line.startswith("* after step 2: ")]
        assert len(lines) == changes
        assert meta["base_model"] == "some-org/tiny-bert"
    assert "* after step 2: optimizer.learning_rate: 2e-05 → 0.01" in lines
    assert "* after step 2: steps: 2 → 4" in lines
    assert "* 0: `bad`\n* 1: `good`" in body


def test_what_the_run_does_not_know_can_be_named(place, tmp_path, capsys):
    """Languages, licence and base model; what the hub would refuse is refused."""
    flags = ["--language=de,fr", "--licence=Apache 2.0", "--base_model=org/other"]
    meta, _ = card_of(place, tmp_path / "hf", *flags)
    assert (meta["language"], meta["license"]) == (["de", "fr"], "apache-2.0")
    assert meta["base_model"] == "org/other"
    for flag, words in (
        ("--base_model=../models/a: b", "expected a name on the Hugging Face hub"),
        ("--language=German", "expected codes of ISO 639"),
    ):
        out_dir = tmp_path / "refused"
        assert run("export", f"--run_dir={place}/run_of_it", f"--out_dir={out_dir}", flag) == 2
        assert words in capsys.readouterr().err
        assert not out_dir.exists()
