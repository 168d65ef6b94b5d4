"""A trained run scored again, on its own data or on other data of its kind."""

import copy
import warnings
from pathlib import Path
from typing import cast

import jax
from jax.sharding import Mesh

from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, build_model
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.kind import Kind, kind_of
from ptft_jax.runs.kinds.setfit import Classifier, SetFit
from ptft_jax.runs.train import Results, checked_mesh
from ptft_jax.runs.trained.asking.embeddings import few_shot_way
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_params
from ptft_jax.training.resources.memory import fitting


def evaluate(
    run: TrainedRun,
    data: str | Path | None,
    job: Job,
    split: str | None = None,
    report: str | Path | None = None,
) -> Results:
    """Returns the metrics by split, {"dev": {"loss": …}}; see `Run.evaluate`."""
    if report is not None and run.record.command != "finetune":
        raise ConfigError(
            f"--report={report}: the page is that of a fine-tuned run, and {run.folder.path} is "
            f"one of `ptft {run.record.command}`; leave it out."
        )
    if report is not None and not Path(report).parent.is_dir():
        raise ConfigError(
            f"--report={report}: there is no folder {Path(report).parent}; expected a file in one "
            "that is there."
        )
    config = copy.deepcopy(run.config)
    if "continual" in config and run.record.config["task"] != "several":
        raise ConfigError(f"{run.folder.path}: expected the run itself, which scores all tasks.")
    if data is not None and any("@" in task for task in config.get("tasks", ())):
        raise ConfigError(
            f"data={data}: {run.folder.path} has tasks with folders of their own (config.tasks), "
            "which would be scored instead; leave it out."
        )
    needed = None
    if data is not None:
        config = with_data(config, data)
        # A page looks at training examples, too.
        if report is None:
            needed = Needed((split,) if split else (), run.record.labels)
    if "null_score_threshold" in config and (data is not None or split not in (None, "dev")):
        # Tuned on the run's own dev, and not on what is to be scored.
        from ptft_jax.runs.trained.asking.answers import threshold_of

        config.null_score_threshold = threshold_of(run)
    kind = kind_of(run.record.command, config, needed)
    check_data(run, kind, others=data is not None)
    if data is not None and few_shot_way(run) == "setfit":
        cast(SetFit, kind).classifier = Classifier.read(run.folder.path, run.step)
    # As in the phase that the checkpoint belongs to.
    phase = next((p for p in kind.phases if run.step <= p.until), kind.phases[-1])
    splits = kind.scored(phase, run.tokenizer, split)
    model = build_model(run.model_config)
    mesh = _mesh(kind, model)
    with jax.set_mesh(mesh):
        more = f"run it on more or larger devices (now {mesh.size}): its batches are the run's own"
        with fitting([more]):
            score = kind.evaluate(model, phase, splits, mesh, job)
            results = score(put_params(run.params, model.axes(), mesh))
    for line in kind.findings():
        warnings.warn(line, stacklevel=3)
    if report is not None and job.is_first:
        failed = kind.write_report(run.folder, Path(report), run.step, results)
        if failed:
            warnings.warn(failed, stacklevel=3)
    return {split: dict(metrics) for split, metrics in results.items()}


def with_data(config: Config, data: str | Path) -> Config:
    """Returns the config of a run with other data, of which all examples are used."""
    changed = copy.deepcopy(config)
    changed.data_dir = str(data)
    for name in ("max_train_examples", "examples_per_class"):
        if name in changed:  # of the run's own training examples
            changed[name] = 0
    return changed


def _mesh(kind: Kind, model: Model) -> Mesh:
    """Returns the mesh of the run, or one device where that mesh does not fit this machine."""
    try:
        return checked_mesh(kind.config, model, kind.phases)
    except ConfigError as error:
        warnings.warn(f"evaluating on one device, without the run's mesh: {error}", stacklevel=3)
        return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def check_data(run: TrainedRun, kind: Kind, *, others: bool) -> None:
    """Raises ConfigError where scores would not be the run's, or of another task."""
    where = kind.config.data_dir or "TFDS"
    if kind.labels != run.record.labels:
        raise ConfigError(
            f"{run.folder.path} was trained with labels {run.record.labels}, {where} has "
            f"{kind.labels}: expected data with the labels of the run."
        )
    if kind.pairs != run.record.pairs:
        words = {True: "pairs of texts", False: "single texts"}
        raise ConfigError(
            f"{run.folder.path} was trained on {words[not kind.pairs]}, {where} has "
            f"{words[kind.pairs]}: expected data of the same form."
        )
    now, before = kind.fingerprints, run.record.data
    changed = [name for name, sha256 in before.items() if now.get(name) != sha256]
    if changed and not others:
        raise ConfigError(
            f"{run.folder.path}: the data in {where} is not what the run was trained with "
            f"(changed: {', '.join(changed)}), so its scores would not be the run's: bring back "
            "the data of the run."
        )
