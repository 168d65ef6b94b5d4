"""SQuAD 1.1 (Rajpurkar et al. 2016) and 2.0 (2018), and CMRC 2018 (Cui et al. 2019; Chinese)."""

from ptft_jax.data.tasks.span import SpanTask

_FILES = ("{split}.json", "{split}-v{version}.json")

SQUAD = {
    "squad": SpanTask("squad", _FILES),
    "squad_v2": SpanTask("squad", _FILES, version="2.0"),
    "cmrc2018": SpanTask(
        "squad", ("{split}.json", "cmrc2018_{split}.json"), by_character=True, language="zh"
    ),
}
