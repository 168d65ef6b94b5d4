"""A run whose batches change at a step: one state, one schedule, exact to resume in each phase."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    DROPOUT,
    losses,
    metrics,
    prepare_corpus,
    pretrain_flags,
    results,
    run,
)

from ptft_jax.data.batches import Batches
from ptft_jax.errors import ConfigError
from ptft_jax.runs import defaults, train
from ptft_jax.runs.phases import phases_of

PHASES = "({'step': 5, 'max_seq_length': 48, 'batch_size': 8, 'max_predictions_per_seq': 7},)"
STEPS, BORDER = 9, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus and an uninterrupted run of two phases, all checkpoints kept."""
    place = tmp_path_factory.mktemp("phases")
    prepare_corpus(place)
    assert run(*_flags(place, "whole")) == 0
    return place


def _flags(place: Path, name: str, **changes) -> list[str]:
    settings = DROPOUT | {
        "steps": STEPS,
        "phases": PHASES,
        "checkpoint_every": 1,
        "keep_last": 20,
        "eval_every": 3,
        "packing": "true",
    }
    return pretrain_flags(place / "data", place / name, **(settings | changes))


class Recorded(Batches):
    """Batches that note what they hand out."""

    seen: list[tuple[tuple[int, ...], int]]

    def __next__(self):
        index = self.next_index
        batch = super().__next__()
        Recorded.seen.append((batch["input_ids"].shape, index))
        return batch


def test_each_phase_reads_its_own_batches_from_their_beginning(place, monkeypatch):
    """Length and batch change after the update that is named, and with them the examples."""
    monkeypatch.setattr(train, "Batches", Recorded)
    Recorded.seen = []
    assert run(*_flags(place, "recorded")) == 0
    assert Recorded.seen == [
        *(((16, 32), 16 * step) for step in range(BORDER)),
        *(((8, 48), 8 * step) for step in range(STEPS - BORDER)),
    ]
    assert losses(place / "recorded") == losses(place / "whole")
    rate = [line["learning_rate"] for line in metrics(place / "whole") if "split" not in line]
    # One schedule over all steps: linear decay goes on across the border.
    assert np.allclose(np.diff(rate[2:]), rate[-1] - rate[-2])


@pytest.mark.parametrize("step", [3, BORDER, 7])
def test_a_run_resumes_in_either_phase_and_on_their_border(place, step):
    """What is left of the run at a checkpoint leads to the same losses, to the last bit."""
    folder = place / f"resumed-{step}"
    shutil.copytree(place / "whole", folder)
    (folder / "results.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    assert run(*_flags(place, folder.name)) == 0
    timed = {"tokens_per_second", "data_wait"}
    resumed, whole = (
        [{name: line[name] for name in line.keys() - timed} for line in metrics(place / name)]
        for name in (folder.name, "whole")
    )
    assert resumed == whole
    assert results(folder) == results(place / "whole")


def test_labels_that_say_little_are_warned_of(place, capsys):
    """Documents of one sentence have no next sentence: each phase says so, others nothing."""
    assert run(*_flags(place, "whole")) == 0
    assert "warning" not in capsys.readouterr().out
    lines = (place / "text.txt").read_text(encoding="utf-8").split("\n")
    single = place / "single"
    single.mkdir()
    (single / "text.txt").write_text("\n\n".join(filter(None, lines)), encoding="utf-8")
    prepare = ["prepare", "--config=configs/data/text.py", f"--config.inputs={single}/text.txt"]
    assert run(*prepare, "--config.vocab_size=200", f"--out_dir={single}/data") == 0
    phases = PHASES.replace("5", "1", 1)
    assert run(*_flags(single, "run", steps=2, phases=phases)) == 0
    said = capsys.readouterr().out
    for length in (32, 48):
        assert f"warning: 100% of the pairs of {length} tokens have a random next sentence" in said
    assert "--config.input_format=full_sentences" in said


def test_evaluate_uses_the_phase_of_the_checkpoint(place, capsys):
    """The last checkpoint is scored on examples of the last phase, an early one on its own."""
    assert run("evaluate", f"--run_dir={place}/whole") == 0
    assert run("evaluate", f"--run_dir={place}/whole", "--checkpoint=3") == 0
    said = capsys.readouterr().out.split("step 3")
    lines = [line for line in metrics(place / "whole") if line.get("split") == "dev"]
    at = {line["step"]: line["loss"] for line in lines}
    assert f"{at[STEPS]:.4f}" in said[0]
    assert f"{at[3]:.4f}" in said[1]


def test_an_unchanged_command_is_kept_and_another_phase_is_a_change(place, capsys):
    """Phases are part of the config: they survive JSON, and a changed one is refused."""
    assert run(*_flags(place, "whole")) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(*_flags(place, "whole", phases=PHASES.replace("48", "40"))) == 2
    assert "phases" in capsys.readouterr().err
    record = json.loads((place / "whole" / "config.json").read_text())
    assert record["config"]["phases"][0]["max_seq_length"] == 48
    # The position counts from the border: 9 updates with another one would read other examples.
    for changes in ({"phases": PHASES.replace("5", "6", 1)}, {"phases": "()"}):
        longer = _flags(place, "whole", steps=12, **changes)
        assert run(*longer, "--config_change=allow") == 2
        said = capsys.readouterr().err
        assert "in phases that began after [0, 5] updates; with this config they would" in said


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (({"step": 0},), "after 0 updates .*: expected more than 0 and less than steps=10"),
        (({"step": 10},), "after 10 updates .*: expected more than 0 and less than steps=10"),
        (({"step": 5}, {"step": 5}), "number 2: it begins after 5 .*more than 5"),
        (({"step_ratio": 1.0},), "after 10 updates"),
        (({"max_seq_length": 64},), "expected either 'step' .* or 'step_ratio'"),
        (({"step": 5, "step_ratio": 0.5},), "expected either 'step' .* or 'step_ratio'"),
        (({"step": 0.5},), "step=0.5: expected a value like 900000"),
        (({"step": 5, "max_seq_len": 64},), "the nearest is 'max_seq_length'"),
        (({"step": 5, "seed": 1},), "'seed' cannot change in a phase"),
        (({"step": 5, "batch_size": 8.0},), r"batch_size=8.0: expected a value like 256"),
        ((5,), "5: expected a dict"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases, message):
    """Each mistake is named with the phase it is in, before anything is compiled."""
    config = defaults.pretrain()
    config.steps = 10
    config.phases = phases
    with pytest.raises(ConfigError, match=message):
        phases_of(config)


def test_later_phases_keep_what_earlier_ones_changed():
    """A third phase that changes the batch goes on with the length of the second."""
    config = defaults.pretrain()
    config.steps = 10
    config.phases = ({"step": 4, "max_seq_length": 512}, {"step": 8, "batch_size": 64})
    found = [
        (phase.start, phase.until, phase.config.max_seq_length, phase.config.batch_size)
        for phase in phases_of(config)
    ]
    assert found == [(0, 4, 128, 256), (4, 8, 512, 256), (8, 10, 512, 64)]


def test_a_phase_may_begin_after_a_share_of_the_steps():
    """The paper's 90 % stay 90 % when `steps` is set to something else on the command line."""
    config = defaults.pretrain()
    config.phases = ({"step_ratio": 0.9, "max_seq_length": 512},)
    for steps, border in ((1_000_000, 900_000), (7, 6)):
        config.steps = steps
        assert [phase.until for phase in phases_of(config)] == [border, steps]
