"""What stands beside a linear map: it sees the rows that go in and changes those that come out."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from ptft_jax.models.config import AdapterConfig, EncoderConfig

if TYPE_CHECKING:
    from ptft_jax.models.layers import Linear


class LinearAdapter(nnx.Module):
    """An adapter of one linear map; its parameters lie beside the map's, under `adapter`."""

    def before(self, rows: jax.Array) -> jax.Array:
        """Returns what the map takes in place of its rows [R, *inputs]."""
        return rows

    def after(self, rows: jax.Array, y: jax.Array, linear: "Linear") -> jax.Array:
        """Returns what the map gives, without its bias, in place of `y` [R, *outputs]."""
        return y

    @staticmethod
    def folded(
        own: dict[str, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        config: AdapterConfig,
        target: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel and bias of the plain map that computes the same.

        Args:
            own: the adapter's parameters [L, …], on the host.
            kernel, bias: [L, *inputs, *outputs] and [L, *outputs], float32.
            config: of the adapter.
            target: which of `TARGETS` the map is.
        """
        raise NotImplementedError

    @staticmethod
    def initial(kernel: np.ndarray, target: str) -> dict[str, np.ndarray]:
        """Returns the parameters whose first values follow from the kernel [L, …]."""
        return {}


def adapter_class(name: str) -> type[LinearAdapter]:
    """Returns the class of one of `ADAPTERS`."""
    from ptft_jax.models.adapters.adalora import Triplets
    from ptft_jax.models.adapters.dora import Directed
    from ptft_jax.models.adapters.ia3 import Scaled
    from ptft_jax.models.adapters.lora import LowRank

    return {"lora": LowRank, "dora": Directed, "adalora": Triplets, "ia3": Scaled}[name]


def linear_adapter(
    config: EncoderConfig, target: str, *map_: Any, rngs: nnx.Rngs, stack: int | None
) -> LinearAdapter:
    """Returns the adapter that a config asks for.

    Args:
        config: of the model, with an adapter.
        target: which of `TARGETS` the map is.
        map_: `equation`, `inputs` and `outputs` of the map (`models.layers.Linear`).
        rngs, stack: as of the map.
    """
    assert config.adapter is not None
    make: Any = adapter_class(config.adapter.name)
    return make(config, target, *map_, rngs=rngs, stack=stack)
