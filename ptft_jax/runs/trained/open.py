"""A trained model opened for questions, from a run's folder or a Hugging Face folder."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ptft_jax.convert.folder import read_hf_folder
from ptft_jax.data.hub import locate
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import HEADS, EncoderConfig
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder, TrainedRun, open_run
from ptft_jax.runs.record import is_run
from ptft_jax.runs.start.starting_point import imported_record
from ptft_jax.runs.train import Results
from ptft_jax.runs.trained.asking.embeddings import embed, recipe_of
from ptft_jax.runs.trained.asking.predictions import predict
from ptft_jax.runs.trained.asking.texts import Text, limit_of
from ptft_jax.runs.trained.evaluate import evaluate
from ptft_jax.runs.trained.export import Exported, export
from ptft_jax.runs.trained.one_task import of_task
from ptft_jax.training.cluster.job import Job


def load_run(path: str | Path, checkpoint: str | None = None) -> "Run":
    """Opens a trained model, with its parameters on one device.

    Args:
        path: the folder of a run, a Hugging Face folder of a BERT model, or the name of one on the
            Hub, "bert-base-uncased", perhaps with "@" and a revision; of the latter two the heads
            that are known here are read.
        checkpoint: "last", "best" or the number of a step; for a run only. None: the last one, or
            the best of a run with `config.patience`.

    Raises:
        ConfigError: there is no such folder, model or checkpoint, or it is of another kind.
        DataError: something in the folder is damaged, or a parameter is not finite.
    """
    given = os.path.expanduser(path)
    path, origin = locate(given, given)
    if is_run(path, given):
        return Run(open_run(path, checkpoint))
    if checkpoint not in (None, "last"):
        raise ConfigError(
            f"checkpoint={checkpoint!r}: {given} is of Hugging Face's form and has no checkpoints "
            "to choose from; leave it out."
        )
    return Run(_open_hf(path, origin))


def load_runs(paths: Iterable[str | Path]) -> "list[Run]":
    """Opens several models; parameters that are equal in all lie in memory once.

    So adapters, in runs or in folders of PEFT's, stand beside one encoder. Raises as `load_run`.
    """
    runs: list[Run] = []
    for path in paths:
        run = load_run(path)
        if runs:
            run._share(runs[0])
        runs.append(run)
    return runs


def _open_hf(path: Path, origin: str) -> TrainedRun:
    params, config, tokenizer, info = read_hf_folder(path, HEADS)
    config = config.replace(heads=info.found)
    record = imported_record(origin, config, info)
    return TrainedRun(
        folder=RunFolder(path),
        record=record,
        config=ConfigDict(record.config),
        model_config=config,
        tokenizer=tokenizer,
        step=0,
        params=jax.tree.map(jnp.asarray, params),
    )


class Run:
    """A trained model that can be asked; `load_run` makes one.

    Attributes:
        path: the folder.
        config: the config that the run was started with, a ConfigDict; of a Hugging Face folder
            only where it is.
        model_config: the model's sizes and heads.
        tokenizer: text to ids and back.
        labels: names of the classes in the order of their ids; None where there are none.
        pairs: whether a text is a pair for the classifier; None where that is not known.
        limit: tokens of a text of which `predict` sees no more; a tagger takes windows of them.
        step: of the checkpoint; 0 for a Hugging Face folder.
    """

    def __init__(self, trained: TrainedRun):
        self._trained = trained
        self.path: Path = trained.folder.path
        self.config: Config = trained.config
        self.model_config: EncoderConfig = trained.model_config
        self.tokenizer: TextTokenizer = trained.tokenizer
        self.labels: tuple[str, ...] | None = trained.record.labels
        self.pairs: bool | None = trained.record.pairs
        self.limit: int = limit_of(trained)
        self.step: int = trained.step

    def _share(self, other: "Run") -> None:
        """Takes the other's arrays in place of equal ones."""
        theirs = dict(jax.tree_util.tree_leaves_with_path(other._trained.params))

        def shared(path: Any, value: jax.Array) -> jax.Array:
            there = theirs.get(path)
            return value if there is None or not np.array_equal(there, value) else there

        params = jax.tree_util.tree_map_with_path(shared, self._trained.params)
        self._trained = dataclasses.replace(self._trained, params=params)

    def of_task(self, task: str) -> "Run":
        """Returns a model of one of the tasks of a run on several, to ask and to export.

        Raises ConfigError where it was not trained on it.
        """
        return Run(of_task(self._trained, task))

    def __repr__(self) -> str:
        heads = ", ".join(self.model_config.heads) or "none"
        return f"Run({str(self.path)!r}, step {self.step}, heads {heads})"

    def predict(
        self,
        texts: Iterable[Text | list[str] | Mapping[str, Any]],
        top: int = 5,
        progress: Callable[[int, int], None] | None = None,
        *,
        support: Mapping[str, Iterable[Any]] | None = None,
    ) -> list[dict[str, Any]]:
        """Fills in masks, classifies, tags words, or answers questions.

        Texts longer than those of training are cut, with a warning that counts them; a tagger reads
        them whole, in windows.

        Args:
            texts: texts; a pair is a tuple of two, or one text with a tab between them, as a
                question with its context is. A masked LM has nothing to say of a blank one. For a
                tagger also lists of words; for a model of relations sentences of FewRel's format,
                {"tokens": […], "h": [name, id, [[places of its words]]], "t": …}.
            top: how many candidates to return for each text or mask.
            progress: is told how many texts are done, and how many there are.
            support: for a model trained on episodes, some texts of each label, in their form.

        Returns:
            A dict per text: `text`, and with a masked LM `filled` (the text with its best words)
            and `masks`, for each [MASK] a list of {`token`, `score`} (tokens of BPE and Unigram
            have a space before them where they begin a word); with a classifier `label` (where a
            text has several, `labels`, those of at least one half) and `scores`, a dict from labels
            to probabilities (of a model trained on episodes the labels of `support`, and "(none)"
            where it has learned that a text may be of none); with a regression `score`; with a
            model of multiple choice, asked by tuples of a context and its choices, `choice` (the
            number of one from 0), `label` (its text) and `scores`, their probabilities in order;
            with a model trained on spans `answer`, its `score`, the characters `start` and `end` of
            the context between which it stands, and the candidates, `nbest` (where questions may
            have no answer, "" stands for none, and `null_score_diff` is its score less that of the
            best answer).
            The best candidates come first. With a tagger of entities `entities`, a list of {`type`,
            `text`, `start`, `end` (characters), `score`}, in the order of the text; with another
            tagger `tags`, a list of {`tag`, `text`, `start`, `end`, `score`}, one for each word
            that the tokenizer finds. Of a list of words `words`, `tags` and `scores`, one for each.

        Raises:
            ConfigError: the model has no such head, or a text cannot be asked: no [MASK] to fill
                in, one beyond the length of the model's texts, no pair where it takes pairs.
            DataError: the model's outputs are not finite.
        """
        return predict(self._trained, texts, top, progress, support)

    def embed(
        self,
        texts: Iterable[str],
        pooling: str | None = None,
        batch_size: int = 32,
        dims: int | None = None,
    ) -> np.ndarray:
        """Turns texts into vectors, which depend neither on their order nor on the batch.

        Texts longer than those of training are cut, with a warning that counts them.

        Args:
            texts: texts; an empty one gets a vector as well.
            pooling: "mean" over a text's tokens, "cls" for the output at [CLS], or "pooler". None
                does as the model was trained, or as the folder's modules.json says
                (sentence-transformers), a normalisation included; else it is the mean.
            batch_size: texts computed at once.
            dims: how many features to keep, the first ones, of a model trained for that
                (`config.embedding.dims`); None: all.

        Returns:
            A row per text, float32 [N, D].

        Raises:
            ConfigError: an unknown pooling, a model without a pooler, or more features than it has.
            DataError: the model's outputs are not finite, or a file that says how is damaged.
        """
        return embed(self._trained, texts, pooling, batch_size, dims)

    def describe_vectors(self, pooling: str | None = None) -> str:
        """Returns in words how `embed` makes vectors."""
        recipe = recipe_of(self._trained, pooling)
        return recipe.pooling + (", then length 1" if recipe.normalize else "")

    def evaluate(
        self,
        data: str | Path | None = None,
        split: str | None = None,
        report: str | Path | None = None,
    ) -> Results:
        """Computes the metrics of the run's kind with this model.

        Args:
            data: what `config.data_dir` would be: a folder made by `ptft prepare` for a pretrained
                model, one with the task's files for a fine-tuned one, of which a train file need
                not be there (but for `report`, vectors, episodes and several tasks). None: the
                run's own data, which has to be what it was when the run was trained.
            split: the one to score, like "test"; None: those that are scored in training.
            report: file for a page on the scores of a fine-tuned run, like "report.html".

        Returns:
            Metrics by split, {"dev": {"loss": …, "accuracy": …}}.

        Raises:
            ConfigError: a Hugging Face folder or an imported run, which has no task; data of
                another form; a split that is not there or has no labels.
            DataError: the data is damaged or has other labels, or the model's outputs are not
                finite.
        """
        with Job() as job:
            return evaluate(self._trained, data, job, split, report)

    def export(
        self,
        out_dir: str | Path,
        architecture: str | None = None,
        *,
        form: str = "hf",
        merge: bool = False,
        base_model: str | None = None,
        languages: Sequence[str] = (),
        licence: str | None = None,
    ) -> Exported:
        """Writes a folder that PyTorch users load with `AutoModel….from_pretrained`.

        Of a run that has trained an adapter either `form` or `merge` has to be given.

        Args:
            out_dir: a new or empty folder.
            architecture: name of the transformers class, like "BertForMaskedLM"; None: the one with
                all heads of the model.
            form: "peft" writes adapter and head alone, for `peft.PeftModel.from_pretrained` of the
                model that the run started from, which `base_model` may name otherwise.
            merge: fold the adapter into the weights.
            base_model, languages, licence: for the model card: the name on the Hugging Face hub of
                what training started from, codes of the texts' languages (["en"]), and the model's
                licence. None and (): what the run knows.

        Returns:
            The class, the checkpoint's step, and the comparison of our outputs with PyTorch's,
            `verification`, None where torch is not installed.

        Raises:
            ConfigError: the folder is not empty, or the model has not the heads of the class.
            DataError: PyTorch's outputs are not those of the model.
        """
        return export(
            self._trained,
            os.path.expanduser(out_dir),
            architecture,
            form=form,
            merge=merge,
            base_model=base_model,
            languages=languages,
            licence=licence,
        )
