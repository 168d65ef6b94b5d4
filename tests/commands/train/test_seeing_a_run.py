"""What a run shows of how it runs: utilisation, kernels, and what does not fit."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from command_line import (
    finetune_flags,
    losses,
    metrics,
    prepare_corpus,
    pretrain_flags,
    run,
    sentences,
)

from ptft_jax.runs import train
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds import finetuning, pretraining
from ptft_jax.training.resources import cost
from ptft_jax.training.resources.accelerators import ACCELERATORS
from ptft_jax.training.resources.cost import model_flops


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with a corpus."""
    place = tmp_path_factory.mktemp("seeing")
    prepare_corpus(place)
    return place


def test_utilisation_is_that_of_all_devices(place, monkeypatch):
    """As if the eight devices were L4s: model FLOPs of the global batch over eight times its peak.

    One device's share of the batch over its own peak, or all over one, would be off by eight.
    """
    device = ACCELERATORS["l4"]
    monkeypatch.setattr(cost, "accelerator_of", lambda kind: device)
    assert run(*pretrain_flags(place / "data", place / "l4", accumulate=2)) == 0
    config = RunFolder(place / "l4").record().encoder_config
    flops = 16 * model_flops(config, tokens=32, predictions=5, pooled=1)
    lines = [line for line in metrics(place / "l4") if line.get("tokens_per_second")]
    assert len(lines) >= 4
    for line in lines:
        seconds = line["tokens"] / line["tokens_per_second"]
        peak = 8 * device.float32_tflops * 1e12
        assert line["mfu"] == pytest.approx(flops / (seconds * peak))


def test_a_cpu_has_no_utilisation(place):
    """A figure from a peak that nobody knows would be made up: the file says null."""
    assert run(*pretrain_flags(place / "data", place / "cpu", accumulate=2)) == 0
    training = [line for line in metrics(place / "cpu") if "split" not in line]
    assert {line["mfu"] for line in training} == {None}
    assert {line["device_memory_gib"] for line in training} == {None}


def test_a_trace_and_its_kernels(place, capsys):
    """It lies in the run's folder, and the screen says which operations took the time, and how to
    look at it.
    """
    folder = place / "traced"
    assert run(*pretrain_flags(place / "data", folder, accumulate=2), "--profile=2:4") == 0
    said = capsys.readouterr().out
    (file,) = folder.glob("profile/plugins/profile/*/*.xplane.pb")
    assert f"trace of the updates 3 to 4: {file}" in said
    assert f"xprof --logdir={folder}/profile" in said
    table = said.partition("mean of 2 updates")[2].partition("trace of")[0]
    rows = [line.split() for line in table.splitlines() if line.strip().endswith("%")]
    assert len(rows) == 22  # with the others and the sum
    assert all(float(ms) >= 0 for *_, ms, _ in rows)
    shares = [float(share.rstrip("%")) for *_, share in rows]
    assert sum(shares[:-1]) == pytest.approx(100, abs=2)
    assert run(*pretrain_flags(place / "data", folder, accumulate=2), "--profile=2:4") == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["3", "a:b", "3:3", "4:2", "-1:2", "1:2:3", "1.5:3", "2:7"])
def test_updates_that_cannot_be_traced_are_refused(place, profile, capsys):
    """Before anything is compiled or written: after an hour of training it would be too late."""
    folder = place / "never"
    assert run(*pretrain_flags(place / "data", folder), f"--profile={profile}") == 2
    said = capsys.readouterr().err
    assert f"--profile={profile}: " in said
    assert "expected STOP" in said or "expected START:STOP" in said
    assert not folder.exists()


def full(*_, **__):
    """Stands for the making of a step that does not fit the devices."""

    def step(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    return step


def test_an_update_that_does_not_fit_says_what_to_change(place, monkeypatch, capsys):
    """With a code of its own, and the present values of the settings that need less memory."""
    monkeypatch.setattr(train, "make_train_step", full)
    flags = pretrain_flags(place / "data", place / "full", **{"mesh.data": 2, "mesh.fsdp": 4})
    assert run(*flags) == 71
    said = capsys.readouterr().err
    assert "the devices have no memory left: RESOURCE_EXHAUSTED: Out of memory allocating 9" in said
    assert "raise accumulate (now 1; 2 rows at once on a device)" in said
    assert "set model.remat=True (now False)" in said
    assert "raise mesh.fsdp (now 4, with 8 devices in all)" in said
    assert "disk" not in said


def test_an_evaluation_that_does_not_fit_says_what_to_change(place, monkeypatch, capsys):
    """In training and by itself, where other settings are at hand; what was saved before stays."""
    folder = place / "full_dev"
    flags = pretrain_flags(place / "data", folder, accumulate=2, checkpoint_every=2)
    monkeypatch.setattr(pretraining, "make_eval_step", full)
    assert run(*flags) == 71
    assert "raise accumulate (now 2; 1 rows" not in capsys.readouterr().err
    assert run("evaluate", f"--run_dir={folder}") == 71
    assert "run it on more or larger devices (now 8)" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(*flags) == 0
    assert sorted(losses(folder)) == [1, 2, 3, 4, 5, 6]


def test_fine_tuning_that_does_not_fit_names_the_batch_of_its_evaluations(
    place, monkeypatch, capsys
):
    """Nothing else of an evaluation can be made smaller."""
    (place / "table").mkdir()
    for split in ("train", "dev"):
        rows = [f"{text}\t{label}\n" for text, label in sentences(16, 1)]
        (place / "table" / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
    source = place / "source"
    assert run(*pretrain_flags(place / "data", source, accumulate=2, steps=1)) == 0
    monkeypatch.setattr(finetuning, "make_scoring_step", full)
    flags = finetune_flags("text.py", place / "table", source, place / "tuned", eval_batch_size=16)
    assert run(*flags) == 71
    assert "lower eval_batch_size (now 16)" in capsys.readouterr().err
