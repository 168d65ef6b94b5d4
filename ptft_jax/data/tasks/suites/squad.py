"""SQuAD 1.1 (Rajpurkar et al. 2016) and 2.0 (2018), and CMRC 2018 (Cui et al. 2019; Chinese)."""

from ptft_jax.data.tasks.span.splits import SpanTask

_FILES = ("{split}.json", "{split}-v{version}.json")
_HUB = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}
_TFDS = {"1.1": "squad/v1.1", "2.0": "squad/v2.0"}

SQUAD = {
    "squad": SpanTask("squad", _FILES, hub=_HUB, tfds=_TFDS),
    "squad_v2": SpanTask("squad", _FILES, version="2.0", hub=_HUB, tfds=_TFDS),
    "cmrc2018": SpanTask(
        "squad",
        ("{split}.json", "cmrc2018_{split}.json"),
        by_character=True,
        language="zh",
        hub={"1.1": "hfl/cmrc2018"},
    ),
}
