"""Training texts that are changed as a config says, some of them by a masked language model."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ptft_jax.data.progress import duration
from ptft_jax.data.tasks.training.augmented import Augmentation, Augmented
from ptft_jax.data.tasks.training.refilled import Refilled
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Params, build_model
from ptft_jax.models.parts import sha256_of
from ptft_jax.runs.config import Config, check_length
from ptft_jax.runs.start.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import check_model, process_rows, put_batch, put_params

_KEYS = ("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids")


class Augmenting:
    """What `augment` of a config asks for.

    Attributes:
        masked_lm: SHA-256 of the parameters of the model that refills texts; None without one.
    """

    masked_lm: str | None = None

    def __init__(self, config: Config, tokenizer: TextTokenizer, words_may_move: bool, pairs: bool):
        """Checks it, and reads the model.

        Args:
            config: of a run.
            tokenizer: of its texts.
            words_may_move: whether labels are of whole texts, and not of places in them.
            pairs: whether texts are pairs.

        Raises:
            ConfigError: it cannot be.
            DataError: the model's folder is damaged.
        """
        self._config, self._tokenizer = config, tokenizer
        given = config.augment.to_dict()
        asked = {name: value for name, value in given.items() if value}
        self._rate, masked_lm = given.pop("refill"), given.pop("masked_lm")
        self._settings = Augmentation(**given)
        self._refilled: Refilled | None = None
        if (self._settings.moves_words or self._rate) and not words_may_move:
            raise ConfigError(
                f"--config.augment={asked}: labels, or the gap to fill in, stand at words, which "
                "would move or be others; expected token_dropout alone."
            )
        if masked_lm and not self._rate:
            raise ConfigError(
                f"--config.augment.masked_lm={masked_lm} has nothing to fill in: expected "
                "augment.refill beside it, like 0.15."
            )
        if config.cache_features:
            raise ConfigError(
                f"--config.augment={asked} with cache_features=True: an encoder that runs once "
                "does not see texts change; expected one of the two."
            )
        if self._rate:
            self._refiller = Refiller(config, tokenizer, pairs)
            self.masked_lm = self._refiller.sha256

    def changed(self, examples: Any, epochs: int) -> Any:
        """Returns training examples, a row each, that are changed anew in each of the epochs."""
        tokenizer, seed = self._tokenizer, self._config.seed
        if self._rate:
            self._refilled = Refilled(examples, tokenizer, self._rate, seed, epochs)
            examples = self._refilled
        if self._settings == Augmentation():
            return examples
        return Augmented(examples, tokenizer, self._settings, seed)

    def prepare(self, *, mesh: Mesh, job: Job, say: Callable[[str], None]) -> None:
        """Asks the model, where there is one, with the mesh set."""
        if self._refilled is not None:
            self._refiller.fill(self._refilled, mesh=mesh, job=job, say=say)


class Refiller:
    """The masked language model that a config names.

    Attributes:
        sha256: of its parameters.
    """

    def __init__(self, config: Config, tokenizer: TextTokenizer, pairs: bool):
        """Reads it.

        Raises:
            ConfigError: it is none, or has another tokenizer.
            DataError: its folder is damaged.
        """
        self._config = config
        source = os.path.expanduser(config.augment.masked_lm)
        named = f"--config.augment.masked_lm={source}"
        if not source:
            raise ConfigError(
                f"--config.augment.refill={config.augment.refill}: expected a masked language "
                "model beside it, augment.masked_lm=RUN_OR_HF_DIR."
            )
        self._found: StartingPoint = load_starting_point(
            source, ("mlm",), key="config.augment.masked_lm"
        )
        if self._found.new:
            raise ConfigError(f"{named} has no masked-LM head: expected a pretrained model.")
        if self._found.tokenizer.sha256 != tokenizer.sha256:
            raise ConfigError(f"{named}: its tokenizer is another one; expected that of the run.")
        if pairs and self._found.config.type_vocab_size < 2:
            raise ConfigError(f"{named} has one token type, and pairs of texts need two.")
        check_length(config, self._found.config)
        self.sha256 = sha256_of(self._found.params)

    def fill(
        self,
        examples: Refilled,
        *,
        mesh: Mesh,
        job: Job,
        say: Callable[[str], None],
    ) -> None:
        """Draws tokens for all gaps, from the model's distribution over all but special tokens.

        Args:
            examples: take them.
            mesh, job: what computes it.
            say: takes a line on what it took.

        Raises:
            ConfigError: the mesh does not divide the model.
        """
        started, config = time.monotonic(), self._found.config
        batch_size = self._config.eval_batch_size
        batch_size = batch_size or self._config.batch_size // self._config.accumulate
        # In float32 a mesh changes no token, but for chances at the very border of two.
        config = config.replace(attention="auto", fused="auto", dtype="float32")
        check_model(config, mesh)
        model = build_model(config)
        params = put_params(self._found.params, model.axes(), mesh)
        never = np.ones(config.padded_vocab_size, bool)
        never[: len(examples.special)] = examples.special

        @jax.jit
        def draw(params: Params, batch: Batch) -> jax.Array:
            encoder = model.bind(params)
            hidden_BTD = encoder.last_hidden_state(batch)
            logits_BMV = encoder.mlm_logits(hidden_BTD, batch["positions"])
            # A sum along the vocabulary wants all of it in one place.
            logits_BMV = jax.reshard(logits_BMV, partition.batch_spec(3))
            logits_BMV = jnp.where(never, jnp.finfo(jnp.float32).min, logits_BMV)
            # By the inverse of the distribution function, so that a chance stands for a token.
            below_BMV = jnp.cumsum(jax.nn.softmax(logits_BMV, axis=-1), axis=-1)
            drawn_BM = jnp.sum(below_BMV <= batch["chances"][:, :, None], axis=-1)
            last = len(never) - 1 - int(np.argmin(never[::-1]))
            return jax.reshard(jnp.minimum(drawn_BM, last), P())

        own = partial(process_rows, mesh)
        for gaps in examples.gaps(batch_size):
            job.made_progress()
            batch = {name: gaps.batch[name] for name in _KEYS if name in gaps.batch}
            batch |= {"positions": gaps.positions, "chances": gaps.chances}
            rows = own(batch_size)
            placed = put_batch({name: held[rows] for name, held in batch.items()}, mesh)
            gaps.fill(jax.device_get(draw(params, placed)))
        say(
            f"{examples.variants} variants of {len(examples):,} training texts refilled by "
            f"{self._found.source} in {duration(time.monotonic() - started)}"
        )
