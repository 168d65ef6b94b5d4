"""Rewinding a run: what is set aside, and what is left out when it goes on."""

from pathlib import Path

import pytest

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import make_manifest, write_manifest
from ptft_jax.training.checkpoints.rewind import rewind, rewinds, skip_at


def save(run: Path, *steps: int) -> None:
    """Writes complete checkpoints with one file each, as a run that goes on would."""
    for step in steps:
        folder = run / "checkpoints" / str(step)
        (folder / "params").mkdir(parents=True)
        (folder / "params" / "array").write_text(str(step))
        metrics = {"dev_loss": 1 / step if step < 30 else 1.0}
        write_manifest(folder, make_manifest(folder, step, metrics, False))


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def test_later_checkpoints_are_set_aside(tmp_path):
    """Nothing is deleted, the best one before the step stays, and the record says what was done."""
    save(tmp_path, 10, 20, 30, 40)
    (tmp_path / "checkpoints" / "50").mkdir()  # damaged: it must not become the last one again
    aside = rewind(tmp_path, 30, 5)
    assert [path.name for path in aside] == ["40.rewound-1", "50.rewound-1"]
    assert names(tmp_path) == {"10", "20", "30", "40.rewound-1", "50.rewound-1"}
    [entry] = rewinds(tmp_path)
    assert entry[:3] == (30, 5, 50)
    assert entry.time.endswith("+00:00")
    manifests = retention.complete(tmp_path / "checkpoints")
    metrics = {step: held.metrics for step, held in manifests.items()}
    assert retention.best_of(metrics, ("dev_loss", "min")) == 20
    # The rewound run saves the same steps again and is rewound again.
    save(tmp_path, 40)
    rewind(tmp_path, 30, 10)
    assert "40.rewound-2" in names(tmp_path)
    assert skip_at(tmp_path, 30) == 10


def test_what_is_left_out_when_a_run_goes_on(tmp_path):
    """The skip belongs to the very checkpoint that was rewound to, and to no other of its number.

    A later checkpoint's own position in the data holds the skip already, and a checkpoint that has
    the number again after a rewind further back is another one.
    """
    save(tmp_path, 10, 20, 30)
    assert [skip_at(tmp_path, step) for step in (10, 20, 30)] == [0, 0, 0]
    rewind(tmp_path, 20, 5)
    assert [skip_at(tmp_path, step) for step in (10, 20, 30)] == [0, 5, 0]
    save(tmp_path, 30, 40)
    assert [skip_at(tmp_path, step) for step in (30, 40)] == [0, 0]
    # Had 30 and 40 been damaged, the run would go on from 20 as before, without those batches.
    assert skip_at(tmp_path, 20) == 5
    rewind(tmp_path, 30, 2)
    assert [skip_at(tmp_path, step) for step in (20, 30)] == [5, 2]
    rewind(tmp_path, 10)
    assert [skip_at(tmp_path, step) for step in (10, 20, 30)] == [0, 0, 0]
    save(tmp_path, 20)
    rewind(tmp_path, 20, 7)
    assert skip_at(tmp_path, 20) == 7
    rewind(tmp_path, 20)
    assert skip_at(tmp_path, 20) == 0


def test_killed_in_the_middle(tmp_path, monkeypatch):
    """The record comes last: after a kill the same command does what is left to do."""
    save(tmp_path, 10, 20, 30)
    rename = retention.set_aside

    def killed(path, why):
        if path.name == "20":
            raise KeyboardInterrupt
        return rename(path, why)

    monkeypatch.setattr(retention, "set_aside", killed)
    with pytest.raises(KeyboardInterrupt):
        rewind(tmp_path, 10, 3)
    monkeypatch.undo()
    assert rewinds(tmp_path) == []
    # What is left is a run that could go on, from its highest checkpoint.
    assert list(retention.complete(tmp_path / "checkpoints")) == [10, 20]
    rewind(tmp_path, 10, 3)
    assert names(tmp_path) == {"10", "20.rewound-1", "30.rewound-1"}
    assert skip_at(tmp_path, 10) == 3


@pytest.mark.parametrize(
    ("step", "skip", "said"),
    [
        (15, 0, r"no checkpoint of step 15 in .*; there are: 10, 20"),
        (10, -1, "--skip_batches=-1: expected 0 or more"),
    ],
)
def test_what_cannot_be(tmp_path, step, skip, said):
    """An unknown step or a negative number changes nothing."""
    save(tmp_path, 10, 20, 30)
    rewind(tmp_path, 20)
    before = names(tmp_path), rewinds(tmp_path)
    with pytest.raises(ConfigError, match=said):
        rewind(tmp_path, step, skip)
    with pytest.raises(ConfigError, match="there is none"):
        rewind(tmp_path / "elsewhere", 10)
    assert (names(tmp_path), rewinds(tmp_path)) == before


@pytest.mark.parametrize("content", ["", "{}", '[{"step": 1}]'])
def test_a_damaged_record(tmp_path, content):
    """Batches that were left out before must not come back because a file was lost."""
    save(tmp_path, 10, 20)
    (tmp_path / "rewinds.json").write_text(content)
    for call in (lambda: skip_at(tmp_path, 10), lambda: rewind(tmp_path, 10)):
        with pytest.raises(DataError, match=r"rewinds\.json is damaged"):
            call()
    assert names(tmp_path) == {"10", "20"}
