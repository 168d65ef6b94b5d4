"""What `ptft prepare` can be told."""

from dataclasses import asdict, dataclass

from ptft_jax.errors import ConfigError

DEDUPLICATE = ("none", "exact", "near")
# The smallest vocabulary of each kind that is learned: with less there is no room for words beside
# the characters (in a byte-level BPE, beside the 256 bytes).
SMALLEST = {"wordpiece": 64, "bpe": 320, "unigram": 64}


@dataclass(frozen=True)
class PrepareSettings:
    """What to make a corpus of, and how.

    `inputs`: files, glob patterns, URLs, tfds: and hf: datasets, each perhaps with @WEIGHT after
    it; one source each. `text_column` is where records of JSON lines, Parquet and datasets have
    their text, unless an input names its own with #COLUMN after it. `join_lines`: a paragraph may
    stand on several lines and ends at a blank one. `vocab`: a tokenizer folder or vocab.txt to use;
    "" learns a `tokenizer` of that kind with `vocab_size` tokens from at most
    `vocab_sample_characters` characters of documents drawn at random. `lowercase` concerns a
    learned vocabulary and a bare vocab.txt; `strip_accents` (None: as `lowercase`) and
    `handle_chinese_chars` a learned one. `deduplicate`: none, exact or near; near duplicates have a
    Jaccard index of `near_threshold` or more, estimated with `near_permutations` hash functions.
    `dev_fraction` of the documents, and at least two, are held out. `shard_tokens`: a token file is
    closed once it has this many. `workers` processes, which do not change the result. `licence` is
    a note for the manifest.
    """

    inputs: tuple[str, ...]
    text_column: str = "text"
    join_lines: bool = False
    vocab: str = ""
    tokenizer: str = "wordpiece"
    vocab_size: int = 30522
    lowercase: bool = True
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True
    deduplicate: str = "none"
    near_threshold: float = 0.8
    near_permutations: int = 128
    dev_fraction: float = 0.01
    seed: int = 0
    workers: int = 1
    shard_tokens: int = 1 << 26
    vocab_sample_characters: int = 1 << 26
    licence: str = ""

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if not 0 < self.dev_fraction < 1:
            raise ConfigError(f"dev_fraction={self.dev_fraction}: expected between 0 and 1")
        for name in ("workers", "shard_tokens", "vocab_sample_characters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.deduplicate not in DEDUPLICATE:
            raise ConfigError(
                f"deduplicate={self.deduplicate!r}: expected one of {', '.join(DEDUPLICATE)}"
            )
        if self.deduplicate == "near":
            if not 0 < self.near_threshold < 1:
                raise ConfigError(f"near_threshold={self.near_threshold}: expected between 0 and 1")
            if not 16 <= self.near_permutations <= 1024:
                raise ConfigError(
                    f"near_permutations={self.near_permutations}: expected 16 to 1024"
                )
            # Imported here: a run that only wants the default values needs none of the making.
            from ptft_jax.data.corpus.duplicates import import_rensa

            import_rensa()
        if not self.vocab:
            if self.tokenizer not in SMALLEST:
                raise ConfigError(
                    f"tokenizer={self.tokenizer!r}: expected one of {', '.join(SMALLEST)}; to use "
                    "one that exists, name it as vocab"
                )
            if self.vocab_size < SMALLEST[self.tokenizer]:
                raise ConfigError(
                    f"vocab_size={self.vocab_size}: expected at least {SMALLEST[self.tokenizer]} "
                    f"for {self.tokenizer}"
                )

    def content_settings(self) -> dict[str, str | int | float | bool | None]:
        """The settings that decide the content; paths do not, the manifest has the files' sums."""
        settings = asdict(self)
        unused = ["inputs", "vocab", "workers", "licence"]
        if self.vocab:
            unused += ["tokenizer", "vocab_size", "lowercase", "strip_accents"]
            unused += ["handle_chinese_chars", "vocab_sample_characters"]
        if not self.join_lines:
            unused += ["join_lines"]
        if self.deduplicate != "near":
            unused += ["near_threshold", "near_permutations"]
        for name in unused:
            del settings[name]
        return {**settings, "vocab": "given" if self.vocab else "learned"}
