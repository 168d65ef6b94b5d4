"""Several tasks in one model: what is drawn when, the loss, what pulls back, whole sequences."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from command_line import DROPOUT, losses, metrics, sentences
from jax.sharding import Mesh
from small_encoder import TEXTS, write_encoder

import ptft_jax
from ptft_jax.cli import main
from ptft_jax.commands.screen import exporting
from ptft_jax.commands.train.continual import planned
from ptft_jax.data.tasks.several import SeveralSettings, draws
from ptft_jax.data.tasks.training.refilled import Refilled
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.several import SeveralObjective
from ptft_jax.objectives.totals import loss_of
from ptft_jax.runs.kinds.several import Several
from ptft_jax.runs.record import RunRecord
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch, put_params
from ptft_jax.training.updates.elastic import importance, pulled

_STSB = ("index", "genre", "filename", "year", "old_index", "source1", "source2")
TASKS = {
    "SST-2": ("sentence\tlabel", lambda n, text: f"{text}\t{n % 2}"),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel",
        lambda n, text: f"{n}\t{text}\t{TEXTS[0]}\t{('not_', '')[n % 2]}entailment",
    ),
    "STS-B": (
        "\t".join((*_STSB, "sentence1", "sentence2", "score")),
        lambda n, text: "\t".join([str(n), *"......", text, TEXTS[1], f"{n % 6}.000"]),
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with three tasks of GLUE, `glue`, and an encoder without dropout, `hf`."""
    place = tmp_path_factory.mktemp("several")
    for number, (folder, (head, row)) in enumerate(TASKS.items()):
        (place / "glue" / folder).mkdir(parents=True)
        texts = [text for text, _ in sentences(24 - 6 * number, number)]
        for split in ("train", "dev"):
            lines = [head, *(row(n, text) for n, text in enumerate(texts))]
            (place / "glue" / folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    write_encoder(place / "hf", [*TEXTS, *(t for n in range(3) for t, _ in sentences(24, n))])
    return place


def config_of(place, way="together", **changes):
    config = ptft_jax.get_config("finetune/continual")
    keys = {"data_dir": str(place / "glue"), "tasks": ("sst2", "rte", "stsb"), "batch_size": 8}
    keys |= {"steps": 4, "log_every": 1, "max_seq_length": 32, "optimizer.learning_rate": 1e-2}
    config.update_from_flattened_dict({**keys, "continual.way": way, **changes})
    return config


def test_how_often_each_task_is_drawn():
    """In proportion, by the root, and behind a task that an epoch goes through once."""
    tasks = ("a", "b", "c")
    together = SeveralSettings(tasks, "together")
    assert draws([100, 400, 900], None, together) == [100, 400, 900]
    by_root = SeveralSettings(tasks, "together", temperature=2.0)
    assert draws([100, 400, 900], None, by_root) == [233, 467, 700]  # 1 : 2 : 3
    second = SeveralSettings(tasks, "sequence", stage=3, replay=0.25)
    assert draws([100, 400, 900], 2, second) == [60, 240, 900]
    assert draws([900], 0, second) == [900]


def test_an_epoch_has_them_in_mixed_order_and_all_of_a_task_equally_often(place):
    """The place in the stream is one number: the same example at the same index, in any batch."""
    kind = Several(config_of(place, **{"continual.temperature": 1e9}))
    start = kind.starting_point(str(place / "hf"), None)
    examples = kind.make_examples(kind.task.splits["train"], start.tokenizer, seed=3, shuffle=True)
    assert examples.counts.tolist() == [18, 18, 18]
    rows = examples.rows(np.arange(12 * len(examples)))
    assert np.array_equal(rows[100:150], examples.rows(np.arange(100, 150)))
    tasks = examples.batch(np.arange(len(examples)))["tasks"][:, 0]
    assert np.bincount(tasks).tolist() == [18, 18, 18]
    assert np.ptp(tasks[:12]) > 0
    for epochs in range(1, 13):
        often = np.bincount(rows[: epochs * len(examples)], minlength=54)
        for own in np.split(often, [24, 42]):
            assert np.ptp(own) <= 1
    # Whatever an epoch has of them, all texts are refilled.
    refilled = Refilled(examples, start.tokenizer, 0.5, 0, 1)
    ids = start.tokenizer.vocab_size - 1
    for gaps in refilled.gaps(8):
        gaps.fill(np.full(gaps.positions.shape, ids))
    later = np.arange(3, 5).repeat(54) * len(examples) + np.tile(np.arange(54), 2)
    changed = refilled.batch(later)["input_ids"] != examples.batch(later)["input_ids"]
    assert changed.any(axis=1).mean() > 0.9


@pytest.fixture(scope="module")
def several():
    """A model with five columns, a batch of three tasks, and its objective."""
    config = EncoderConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        heads=("pooler", "classification"),
        num_labels=6,
        initializer_range=0.5,
    )
    model = build_model(config)
    rng = np.random.default_rng(0)
    batch = {
        "input_ids": rng.integers(5, 50, (8, 6), dtype=np.int32),
        "attention_mask": np.ones((8, 6), np.int32),
        "token_type_ids": np.zeros((8, 6), np.int32),
        "pooled_positions": np.zeros((8, 1), np.int32),
        "weights": (np.arange(8) < 7).astype(np.float32)[:, None],
        "labels": np.array([0, 1, 2, 0.5, -1, 1, 0, 2], np.float32)[:, None],
        "tasks": np.array([0, 0, 1, 2, 2, 1, 1, 1], np.int32)[:, None],
    }
    batch = {name: jax.numpy.asarray(values) for name, values in batch.items()}
    return model, model.init(jax.random.key(0)), batch, SeveralObjective(((0, 2), (2, 3), (5, 1)))


@pytest.mark.parametrize("rows", [8, 1])
def test_the_loss_is_that_of_each_task_alone(several, rows):
    """Columns of other tasks say nothing; a single row, too, has its layout on a mesh."""
    model, params, batch, objective = several
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    batch = {name: values[:rows] for name, values in batch.items()}

    def loss(params, batch):
        return loss_of(objective(model.bind(params), batch, keys=None), objective.weights(batch))

    with jax.set_mesh(mesh):
        placed = put_params(params, model.axes(), mesh)
        rows = put_batch(jax.device_get(batch), mesh)
        found = jax.jit(jax.value_and_grad(loss))(placed, rows)
    expected = 0.0
    logits = objective.logits(model.bind(params), batch)
    for task, (start, width) in enumerate(objective.columns):
        own = (batch["tasks"] == task) * batch["weights"]
        alone = ClassificationObjective("regression" if width == 1 else PROBLEM)
        labels = batch["labels"] if width == 1 else batch["labels"].astype(np.int32)
        totals = alone.totals(
            logits[:, :, start : start + width], {**batch, "labels": labels} | {"weights": own}
        )
        expected += totals.loss["classification"]
    assert found[0] == pytest.approx(float(expected / batch["weights"].sum()), rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[1]))


PROBLEM = "single_label_classification"


def test_what_is_kept_of_earlier_tasks(several):
    """The divergence is the mean over them, of classes KL and of a score half the square."""
    *_, objective = several
    ours, theirs = jax.random.normal(jax.random.key(1), (2, 8, 1, 6))
    keeps = SeveralObjective(objective.columns, (0, 2))
    first = ClassificationObjective().divergences(ours[:, :, :2], theirs[:, :, :2])
    found = keeps.divergences(ours, theirs)
    expected = (first + np.square(ours - theirs)[:, :, 5] / 2) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_importance_is_the_mean_of_squared_gradients_on_any_mesh(several):
    """Of single examples, and the same whatever the mesh; frozen is what mattered."""
    model, params, batch, objective = several

    def squared(row):
        def loss(params):
            one = {name: values[row : row + 1] for name, values in batch.items()}
            totals = objective(model.bind(params), one, keys=None)
            return loss_of(totals, objective.weights(one))

        return jax.tree.map(np.square, jax.grad(loss)(params)["encoder"])

    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *map(squared, range(3)))
    for sizes in ((8, 1, 1), (2, 2, 2)):
        mesh = make_mesh(MeshConfig(*sizes))
        with jax.set_mesh(mesh):
            placed = put_params(params, model.axes(), mesh)
            found = importance(model, objective, placed, _alone(batch, 3, mesh))
        for ours, theirs in zip(
            jax.tree.leaves(found["encoder"]), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-7)


def _alone(batch, count, mesh: Mesh):
    batch, unit = jax.device_get(batch), mesh.shape["data"] * mesh.shape["fsdp"]
    for row in range(count):
        one = {name: np.repeat(values[row : row + 1], unit, 0) for name, values in batch.items()}
        one["weights"] = (np.arange(unit) == 0).astype(np.float32)[:, None]
        yield put_batch(one, mesh)


def test_the_pull_is_the_gradient_of_the_penalty():
    """Of what has an importance; the rest keeps its gradient."""
    rng = np.random.default_rng(2)
    trees = [{"encoder": {"a": x, "b": {"c": 2 * x}}, "heads": x} for x in rng.random((4, 3))]
    gradients, params, origin, matters = trees
    del matters["heads"]

    def penalty(params):
        return sum(
            np.float32(0.5) * (f * (p - o) ** 2).sum()
            for f, p, o in (
                (matters["encoder"]["a"], params["encoder"]["a"], origin["encoder"]["a"]),
                (
                    matters["encoder"]["b"]["c"],
                    params["encoder"]["b"]["c"],
                    origin["encoder"]["b"]["c"],
                ),
            )
        )

    found, value = pulled(gradients, params, origin, matters)
    slope = jax.grad(penalty)(params)
    expected = jax.tree.map(lambda one, other: one + other, gradients, slope)
    assert value == pytest.approx(float(penalty(params)), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_together_resumed_and_on_a_mesh(place, tmp_path):
    """The same losses after a resume, packed or not, on another mesh; one task for PyTorch."""
    config = config_of(place, **{"checkpoint_every": 2, "continual.temperature": 2.0})
    run_dir = tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    assert set(found) == {"sst2", "rte", "stsb", "mean"}
    firsts = [found["sst2"]["accuracy"], found["rte"]["accuracy"], found["stsb"]["pearson"]]
    assert found["mean"]["score"] == pytest.approx(np.mean(firsts))
    whole = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "4")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, str(place / "hf"), str(run_dir)) == found
    assert losses(run_dir) == whole
    changes = {"packing": False, "mesh.fsdp": 4, "mesh.tensor": 2, "accumulate": 2, "steps": 2}
    ptft_jax.finetune(
        config_of(place, **{"continual.temperature": 2.0, **changes}),
        str(place / "hf"),
        str(tmp_path / "mesh"),
    )
    other = losses(tmp_path / "mesh")
    assert [other[1], other[2]] == pytest.approx([whole[1], whole[2]], rel=1e-4)
    run = ptft_jax.load_run(run_dir)
    assert {key: run.evaluate()["rte"][key] for key in found["rte"]} == found["rte"]
    with pytest.raises(ConfigError, match="expected --task with one of them"):
        run.predict(["a text"])
    with pytest.raises(ConfigError, match="expected one of sst2, rte, stsb"):
        run.of_task("mrpc")
    one = run.of_task("rte")
    asked = one.predict([("the light", TEXTS[0])])[0]
    assert set(asked["scores"]) == {"entailment", "not_entailment"}
    exported = one.export(tmp_path / "hf")
    assert exported.verification.largest_difference < 1e-4
    again = ptft_jax.load_run(tmp_path / "hf").predict([("the light", TEXTS[0])])[0]
    assert again["scores"] == pytest.approx(asked["scores"], abs=1e-6)


def test_what_each_run_of_a_sequence_is_told(place, tmp_path):
    """The first task and those alone begin with some layers; who has a teacher has its settings."""
    words = [
        *(
            "--config=finetune/continual",
            "--config.tasks=('sst2', 'rte')",
            "--config.init_layers=(0,)",
        ),
        *("--config.continual.lwf=0.5", "--config.distillation.temperature=3.0"),
        *(
            "--config.continual.replay=0.5",
            "--config.continual.memory=3",
            "--config.reinit_layers=1",
        ),
        *(f"--init_from={place / 'hf'}", f"--run_dir={tmp_path / 'run'}"),
    ]
    first, second, alone = (run.config for run in planned(words).runs)
    assert [tuple(one.init_layers) for one in (first, second, alone)] == [(0,), (), (0,)]
    assert [one.reinit_layers for one in (first, second, alone)] == [1, 0, 1]
    assert [one.distillation.temperature for one in (first, second, alone)] == [2.0, 3.0, 2.0]
    assert [one.continual.memory for one in (first, second, alone)] == [3, 3, 0]
    assert second.teacher == str(tmp_path / "run" / "1-sst2")
    with pytest.raises(ConfigError, match="an adapter of its own"):
        planned([*words, "--config.adapter.name=lora"])
    with pytest.raises(ConfigError, match="choose one"):
        planned([*words, "--config.regularizer.name=fgm"])


def test_a_run_tells_of_the_tasks_that_it_has_learned():
    """In a sequence those so far, alone its own, together all; the last one is shown."""
    found = []
    for way, stage in (("sequence", 2), ("alone", 2), ("together", 0)):
        continual = {"way": way, "stage": stage}
        config = {"task": "several", "tasks": ("a@DIR", "b", "c"), "continual": continual}
        model = dataclasses.asdict(EncoderConfig(heads=("pooler", "classification")))
        record = RunRecord("finetune", config, model)
        found.append(record.tasks)
        assert f"--task={record.tasks[-1]} " in exporting(record, "RUN", "name")
    assert found == [["a", "b"], ["b"], ["a", "b", "c"]]


def test_one_after_another(place, tmp_path):
    """A run for each task and the matrix of their scores, with all that is there to remember."""
    run_dir = tmp_path / "run"
    words = [
        *("finetune", "--config=finetune/continual", f"--config.data_dir={place / 'glue'}"),
        *("--config.tasks=('sst2', 'rte')", f"--init_from={place / 'hf'}", f"--run_dir={run_dir}"),
        *("--config.steps=3", "--config.batch_size=8", "--config.max_seq_length=32"),
        *("--config.log_every=1", "--config.optimizer.learning_rate=1e-2"),
        *("--config.continual.replay=0.3", "--config.continual.ewc=1e3", "--at_once=2"),
        *("--config.continual.lwf=0.5", "--config.continual.fisher_examples=4"),
    ]
    assert main(words) == 0
    second = json.loads((run_dir / "2-rte" / "results.json").read_text())
    alone = json.loads((run_dir / "alone" / "2-rte" / "results.json").read_text())
    assert set(second) == {"sst2", "rte", "mean", "step"}
    assert set(alone) == {"rte", "mean", "step"}
    with (run_dir / "matrix.csv").open() as file:
        scores = {(row["after"], row["task"]): float(row["score"]) for row in csv.DictReader(file)}
    assert scores["rte", "sst2"] == pytest.approx(100 * second["sst2"]["accuracy"])
    assert scores["alone", "rte"] == pytest.approx(100 * alone["rte"]["accuracy"])
    assert (run_dir / "2-rte" / "importance.safetensors").is_file()
    logged = metrics(run_dir / "2-rte")
    # At the first step nothing has moved yet.
    assert logged[0]["penalty"] == 0 < logged[2]["penalty"]
    assert logged[2]["soft_loss"] > 0
    # Resumed it goes back to the same numbers: the importance, the teacher and the start.
    config = ptft_jax.get_config(run_dir / "2-rte")
    (run_dir / "2-rte" / "results.json").unlink()
    shutil.rmtree(run_dir / "2-rte" / "checkpoints")
    ptft_jax.finetune(config, str(run_dir / "1-sst2"), str(run_dir / "2-rte"))
    again = metrics(run_dir / "2-rte")
    assert [one["loss"] for one in again] == [one["loss"] for one in logged]


SECOND = {"continual.way": "sequence", "continual.stage": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("sst2",)}, "expected two tasks or more"),
        ({"tasks": ("sst2", "sst2")}, "'sst2' is named twice"),
        ({"tasks": ("sst2", "rtee")}, "'rtee'.*'rte'"),
        ({"tasks": ("sst2", "squad")}, "expected tasks of labelled texts"),
        ({"continual.way": "sequence", "continual.stage": 4}, "expected the number of a task"),
        ({"continual.replay": 1.0}, "expected a share from 0 up to below 1"),
        ({"continual.temperature": 0.0}, "expected 0.1 or more"),
        ({"continual.way": "mixed"}, "expected sequence, together, alone"),
        ({"regularizer.name": "r_drop", **DROPOUT}, "differ in kind"),
        ({"regularizer.name": "smart"}, "differ in kind"),
        ({"trainable": "head", "cache_features": True}, "this is for one task"),
        ({"continual.memory": 5}, "nothing is replayed of it"),
        ({"continual.ewc": 1.0}, "no task is before another one there"),
        ({**SECOND, "continual.ewc": 1.0, "mixout": 0.1}, "frozen or mixed"),
        ({**SECOND, "continual.ewc": 1.0, "trainable": "top1"}, "frozen or mixed"),
        ({**SECOND, "continual.ewc": 1.0}, "has no head of these tasks"),
        ({**SECOND, "continual.lwf": 1.0}, "has no teacher to learn it from"),
    ],
)
def test_bad_input(place, tmp_path, changes, message):
    """One clear error, before anything is written."""
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(config_of(place, **changes), str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
