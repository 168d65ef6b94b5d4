"""The shape of an encoder, under the names that Hugging Face's `BertConfig` gives its keys."""

import dataclasses
import math
from typing import Any, NamedTuple

from ptft_jax.errors import ConfigError


class LinearHead(NamedTuple):
    """A head that is one float32 linear map.

    Attributes:
        pooled: whether it reads the pooler's outputs [B, P, D]; else every token's [B, T, D].
        outputs: its width, None for `num_labels`.
        dropout: whether `classifier_dropout` comes before it.
    """

    pooled: bool
    outputs: int | None
    dropout: bool


LINEAR_HEADS = {
    "nsp": LinearHead(pooled=True, outputs=2, dropout=False),
    "classification": LinearHead(pooled=True, outputs=None, dropout=True),
    "tagging": LinearHead(pooled=False, outputs=None, dropout=True),
    "span": LinearHead(pooled=False, outputs=2, dropout=False),
    "choice": LinearHead(pooled=True, outputs=1, dropout=True),
}
"""HF `BertOnlyNSPHead` and the heads of its `BertForSequenceClassification`,
`…TokenClassification`, `…QuestionAnswering` and `…MultipleChoice`."""
HEADS = ("pooler", "mlm", *LINEAR_HEADS)
DTYPES = ("float32", "bfloat16")
# Keys that mean the same here and in a Hugging Face `config.json`. `num_labels` is written there as
# `id2label`, so it is not among them.
HF_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "classifier_dropout",
)
ATTENTION = ("auto", "xla", "cudnn", "kernel")
FUSED = ("auto", "xla", "kernel")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


# The linear maps of a layer that an adapter may act on, by their parameters' names.
TARGETS = (
    *("attention/query", "attention/key", "attention/value", "attention/output"),
    *("feed_forward/intermediate", "feed_forward/output"),
)
# Adapters, those of linear maps with what each acts on where nothing is said: PEFT's choice for
# BERT, and for (IA)³ that of its paper.
ADAPTERS = {
    "lora": ("attention/query", "attention/value"),
    "dora": ("attention/query", "attention/value"),
    "adalora": ("attention/query", "attention/value"),
    "ia3": ("attention/key", "attention/value", "feed_forward/output"),
    "houlsby": (),
    "pfeiffer": (),
    "parallel": (),
    "prefix": (),
    "prompt": (),
    "p_tuning": (),
}
PROMPTS = ("prompt", "p_tuning")
_WITH_RANK = ("lora", "dora", "adalora", "houlsby", "pfeiffer", "parallel")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """A small trained part beside frozen parameters; names and meanings are those of PEFT.

    Attributes:
        name: which of `ADAPTERS`.
        rank: columns of the thin matrices of `lora` and `dora`; width of the bottleneck of
            `houlsby`, `pfeiffer` and `parallel`.
        alpha: the product of thin matrices is multiplied by `alpha` / `rank`.
        rank_stabilized: divide by √rank instead (rsLoRA, Kalajdzievski 2023).
        initial_rank: columns of the matrices of `adalora`, of which `rank` are left on average.
        warmup_ratio, final_ratio: shares of the run before the first of them is dropped, and after
            the last one is.
        orthogonal_weight: of what keeps them orthogonal.
        num_virtual_tokens: of `prefix`, in every layer; of `prompt` and `p_tuning`, in front of the
            text.
        targets: which of `TARGETS` an adapter of linear maps acts on, in every layer; empty: those
            of `ADAPTERS`.
    """

    name: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    rank_stabilized: bool = False
    initial_rank: int = 12
    warmup_ratio: float = 0.1
    final_ratio: float = 0.3
    orthogonal_weight: float = 0.5
    num_virtual_tokens: int = 20
    targets: tuple[str, ...] = ()

    def __post_init__(self):
        if self.name not in ADAPTERS:
            names = ", ".join(ADAPTERS)
            raise ConfigError(f"adapter.name={self.name!r}: expected one of {names}, or nothing.")
        object.__setattr__(self, "targets", tuple(self.targets) or ADAPTERS[self.name])
        for name in ("rank", "initial_rank", "num_virtual_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"adapter.{name}={value!r}: expected an integer of at least 1.")
        if self.name == "adalora" and self.initial_rank < self.rank:
            raise ConfigError(
                f"adapter.initial_rank={self.initial_rank}: expected at least adapter.rank="
                f"{self.rank}, which is what is left of it."
            )
        for name in ("warmup_ratio", "final_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"adapter.{name}={getattr(self, name)}: expected a share of the run, below 1."
                )
        if self.warmup_ratio + self.final_ratio >= 1:
            raise ConfigError(
                f"adapter.warmup_ratio={self.warmup_ratio} and adapter.final_ratio="
                f"{self.final_ratio} leave no updates between them: expected less than 1 together."
            )
        if not 0 <= self.orthogonal_weight < math.inf:
            raise ConfigError(
                f"adapter.orthogonal_weight={self.orthogonal_weight}: expected at least 0."
            )
        if self.targets and not ADAPTERS[self.name]:
            raise ConfigError(
                f"adapter.targets={self.targets!r}: {self.name} has its own places in a layer; "
                "expected none."
            )
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"adapter.alpha={self.alpha}: expected a number above 0.")
        for target in self.targets:
            if target not in TARGETS:
                raise ConfigError(f"adapter.targets: {target!r} is none of {', '.join(TARGETS)}.")

    @property
    def columns(self) -> int:
        """Columns of the thin matrices."""
        return self.initial_rank if self.name == "adalora" else self.rank

    @property
    def first_position(self) -> int:
        """The position of a text's first token, behind virtual ones."""
        return self.num_virtual_tokens if self.name in ("prefix", *PROMPTS) else 0

    @property
    def prompt_tokens(self) -> int:
        """How many virtual tokens a row has beside those of each text."""
        return self.num_virtual_tokens if self.name in PROMPTS else 0

    @property
    def scale(self) -> float:
        """What the product of the thin matrices is multiplied by."""
        if self.name == "adalora":
            return self.alpha / (self.initial_rank + 1e-5)
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides which arrays a model has and what it computes from them.

    The defaults are BERT-base (Devlin et al. 2019, section 3). Keys up to `num_labels` mean what
    they mean in Hugging Face's `BertConfig`; the others are ours:

    Attributes:
        vocab_size: number of token ids that exist.
        classifier_dropout: dropout before the heads of fine-tuning; None means
            `hidden_dropout_prob`.
        num_labels: outputs of the classification or tagging head; 1 is a regression.
        heads: which of `HEADS` the model has on top of the encoder.
        vocab_size_multiple: the embedding table has its rows padded up to a multiple of this, so
            that any mesh divides it. Padded ids are never predicted and never exported.
        dtype: dtype of activations and matrix products. Parameters, LayerNorm statistics, softmax
            and the loss stay float32.
        attention: which of `ATTENTION` computes attention; "auto" takes the fastest that can.
        fused: "kernel" computes dropout, residual, LayerNorm, biases and activation in kernels,
            "xla" does not; "auto" uses kernels on the GPUs that they run on.
        unroll: how many layers one iteration of the layer scan holds (`jax.lax.scan(unroll=)`);
            None for all of them: a loop copies every activation that it saves.
        remat: recompute each layer in the backward pass instead of keeping its activations.
        adapter: the small part beside the layers' parameters; None for none. A dict is read as one.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    num_labels: int = 2
    heads: tuple[str, ...] = ("pooler", "mlm", "nsp")
    vocab_size_multiple: int = 64
    dtype: str = "float32"
    attention: str = "auto"
    fused: str = "auto"
    unroll: int | None = None
    remat: bool = False
    adapter: AdapterConfig | None = None

    def __post_init__(self):
        if isinstance(self.adapter, dict):
            object.__setattr__(self, "adapter", AdapterConfig(**self.adapter))
        if self.adapter is not None and self.adapter.name in _WITH_RANK:
            widest = min(self.hidden_size, self.intermediate_size)
            if self.adapter.columns > widest:
                key = "initial_rank" if self.adapter.name == "adalora" else "rank"
                raise ConfigError(
                    f"adapter.{key}={self.adapter.columns} is above that of the matrices it is to "
                    f"be thinner than: expected at most {widest}."
                )
        positive = (
            "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
            "max_position_embeddings type_vocab_size num_labels vocab_size_multiple unroll"
        )
        for name in positive.split():
            value = getattr(self, name)
            if name == "unroll" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"model.{name}={value!r}: expected an integer of at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"model.hidden_size={self.hidden_size} is not a multiple of "
                f"model.num_attention_heads={self.num_attention_heads}: change one of the two so "
                "that every attention head has the same size."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ConfigError(f"model.{name}={value!r}: expected a probability in [0, 1).")
        self._one_of("dtype", self.dtype, DTYPES)
        self._one_of("attention", self.attention, ATTENTION)
        self._one_of("fused", self.fused, FUSED)
        self._one_of("hidden_act", self.hidden_act, ACTIVATIONS)
        for head in self.heads:
            self._one_of("heads", head, HEADS)
        pooled = [head for head in self.linear_heads if LINEAR_HEADS[head].pooled]
        if pooled and "pooler" not in self.heads:
            raise ConfigError(f"model.heads={self.heads}: {pooled[0]} needs 'pooler'.")

    @staticmethod
    def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ConfigError(f"model.{name}={value!r}: expected one of {', '.join(allowed)}.")

    @property
    def linear_heads(self) -> dict[str, int]:
        """The heads that are one linear map, with their widths, in the order of `HEADS`."""
        return {
            name: head.outputs or self.num_labels
            for name, head in LINEAR_HEADS.items()
            if name in self.heads
        }

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text: `max_position_embeddings`, less those of virtual tokens."""
        before = 0 if self.adapter is None else self.adapter.first_position
        return self.max_position_embeddings - before

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to `vocab_size_multiple`."""
        return math.ceil(self.vocab_size / self.vocab_size_multiple) * self.vocab_size_multiple

    def replace(self, **changes: Any) -> "EncoderConfig":
        """Returns a copy with some keys changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_hf(cls, hf_config: dict[str, Any], **ours: Any) -> "EncoderConfig":
        """Reads the keys that a Hugging Face `BertConfig` shares with ours.

        Args:
            hf_config: content of a `config.json` with `"model_type": "bert"`.
            **ours: values for our own keys (`heads`, `dtype`, …).

        Raises:
            ConfigError: the folder describes something that this encoder does not compute.
        """
        # transformers 4 wrote the position type; 5 writes is_decoder and cross attention.
        for key, only in (
            ("position_embedding_type", "absolute"),
            ("is_decoder", False),
            ("add_cross_attention", False),
        ):
            if hf_config.get(key, only) != only:
                raise ConfigError(f"{key}={hf_config[key]!r}: only {only!r} is supported.")
        values = {name: hf_config[name] for name in HF_KEYS if name in hf_config}
        if values.get("pad_token_id", 0) is None:
            del values["pad_token_id"]
        if "num_labels" in hf_config:
            values["num_labels"] = hf_config["num_labels"]
        elif hf_config.get("id2label"):
            values["num_labels"] = len(hf_config["id2label"])
        return cls(**values, **ours)

    def to_hf(self) -> dict[str, Any]:
        """Returns the keys of `config.json` that describe the encoder, for `BertConfig`."""
        return {"model_type": "bert"} | {name: getattr(self, name) for name in HF_KEYS}
