"""Asks a masked language model for other words in training texts (`augment.refill`)."""

import os
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ptft_jax.data.progress import duration
from ptft_jax.data.tasks.training.refilled import Refilled
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Params, build_model
from ptft_jax.models.parts import sha256_of
from ptft_jax.runs.config import Config, check_length
from ptft_jax.runs.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import check_model, process_rows, put_batch, put_params

_KEYS = ("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids")


class Refiller:
    """The masked language model that a config names.

    Attributes:
        sha256: of its parameters.
    """

    def __init__(self, config: Config, tokenizer: TextTokenizer):
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
        check_length(config, self._found.config)
        self.sha256 = sha256_of(self._found.params)

    def fill(
        self,
        examples: Refilled,
        *,
        mesh: Mesh,
        job: Job,
        say: Callable[[str], None],
        batch_size: int,
    ) -> None:
        """Draws tokens for all gaps, from the model's distribution over all but special tokens.

        Args:
            examples: take them.
            mesh, job: what computes it.
            say: takes a line on what it took.
            batch_size: how many are computed at once; the mesh divides it.

        Raises:
            ConfigError: the mesh does not divide the model.
        """
        started, config = time.monotonic(), self._found.config
        config = config.replace(attention="auto", fused="auto", dtype=self._config.model.dtype)
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
