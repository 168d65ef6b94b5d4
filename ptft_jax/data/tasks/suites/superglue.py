"""Tasks of SuperGLUE (Wang et al. 2019, "SuperGLUE", table 1), from its JSON lines.

Label order is that of the labels' names in the benchmark's own code (false, true).
"""

from collections.abc import Iterator
from typing import Any

from ptft_jax.data.tasks.benchmark import ClassificationTask
from ptft_jax.data.tasks.choice import ChoiceTask
from ptft_jax.data.tasks.submissions import JsonLines, Passages, Submission

_FILES = {"train": ("train.jsonl",), "dev": ("val.jsonl",), "test": ("test.jsonl",)}
_ENTAILMENT = ("entailment", "not_entailment")


def _superglue(name: str, **keys: Any) -> ClassificationTask:
    """A row for the task that is called so on the Hub and in TFDS."""
    hub, tfds = f"aps/super_glue/{name}", f"super_glue/{name}"
    return ClassificationTask(
        "superglue", files=_FILES, label="label", id="idx", hub=hub, tfds=tfds, **keys
    )


def _truth(name: str, **keys: Any) -> ClassificationTask:
    return _superglue(name, label_names=("false", "true"), **keys)


def _choice(name: str, **keys: Any) -> ChoiceTask:
    hub, tfds = f"aps/super_glue/{name}", f"super_glue/{name}"
    return ChoiceTask("superglue", files=_FILES, hub=hub, tfds=tfds, **keys)


def _file(name: str, words: tuple[Any, ...] = ()) -> Submission:
    return Submission({"test": name}, JsonLines("idx"), words)


def _diagnostic(name: str, texts: tuple[str, str], metrics: tuple[str, ...]) -> ClassificationTask:
    """A diagnostic set, which a model of RTE is asked about."""
    return ClassificationTask(
        "superglue",
        folder=name,
        texts=texts,
        label="label",
        label_names=_ENTAILMENT,
        metrics=metrics,
        files={"test": (f"{name}.jsonl",)},
        test_has_labels=True,
        id="idx",
    )


def _wic(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The word stands before the first sentence, as which of its words is meant must be known."""
    first = f"{record['word']}: {record['sentence1']}"
    yield {**record, "sentence1": first}


def _wsc(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The noun and the pronoun are marked in the text, `_noun_` and `[pronoun]`."""
    target, words = record["target"], record["text"].split(" ")
    for which, before, after in (("span1", "_", "_"), ("span2", "[", "]")):
        start = target[f"{which}_index"]
        last = start + len(target[f"{which}_text"].split(" ")) - 1
        words[start] = before + words[start]
        words[last] += after
    yield {**record, "text": " ".join(words)}


def _multirc(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each answer to each question on a passage."""
    for question in record["passage"]["questions"]:
        for answer in question["answers"]:
            row = {
                "passage": record["passage"]["text"],
                "question and answer": f"{question['question']} {answer['text']}",
                "question": f"{record['idx']}-{question['idx']}",
                "idx": (record["idx"], question["idx"], answer.get("idx")),
            }
            yield row | ({"label": answer["label"]} if "label" in answer else {})


def _flat_wsc(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As the Hub and TFDS have it, where a target's parts are columns."""
    return _wsc({**record, "target": record})


def _flat_multirc(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As the Hub and TFDS have it, with a record for each answer."""
    yield {
        "passage": record["paragraph"],
        "question and answer": f"{record['question']} {record['answer']}",
        "question": f"{record['idx']['paragraph']}-{record['idx']['question']}",
        "label": record["label"],
    }


def _copa(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The question is asked in words, as in the original data (Roemmele et al. 2011)."""
    asked = {
        "cause": "What was the CAUSE of this?",
        "effect": "What happened as a RESULT?",
    }[record["question"]]
    yield {
        "context": f"{record['premise']} {asked}",
        "choices": [record["choice1"], record["choice2"]],
        "label": record.get("label"),
        "id": record.get("idx"),
    }


def _record(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The choices are the query with each of the passage's entities in its gap."""
    text = record["passage"]["text"]
    spans = [text[one["start"] : one["end"] + 1] for one in record["passage"]["entities"]]
    entities = list(dict.fromkeys(spans))
    for query in record["qas"]:
        right = [answer["text"] for answer in query.get("answers", ())]
        row = {
            "context": text.replace("@highlight", " "),
            "choices": [query["query"].replace("@placeholder", name) for name in entities],
            "names": entities,
            "answers": right,
            "id": query.get("idx"),
        }
        if right:
            row["label"] = [n for n, name in enumerate(entities) if name in right]
        yield row


def _flat_record(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As the Hub and TFDS have it, with a record for each query."""
    entities = record["entities"]
    row = {
        "context": record["passage"].replace("@highlight", " "),
        "choices": [record["query"].replace("@placeholder", name) for name in entities],
    }
    row |= {"names": entities, "answers": list(record["answers"])}
    right = [number for number, name in enumerate(entities) if name in record["answers"]]
    yield row | ({"label": right} if right else {})


SUPERGLUE: dict[str, ClassificationTask | ChoiceTask] = {
    "boolq": _truth(
        "boolq", folder="BoolQ", texts=("question", "passage"), submission=_file("BoolQ.jsonl")
    ),
    "cb": _superglue(
        "cb",
        folder="CB",
        texts=("premise", "hypothesis"),
        label_names=("entailment", "contradiction", "neutral"),
        metrics=("accuracy", "f1_macro"),
        submission=_file("CB.jsonl"),
    ),
    "multirc": _truth(
        "multirc",
        tfds_rows=_flat_multirc,
        folder="MultiRC",
        texts=("passage", "question and answer"),
        labels_in_file=("0", "1"),
        metrics=("f1", "exact_match"),
        flatten=_multirc,
        group="question",
        submission=Submission({"test": "MultiRC.jsonl"}, Passages(), (0, 1)),
    ),
    "copa": _choice("copa", folder="COPA", flatten=_copa, submission=_file("COPA.jsonl")),
    "record": _choice(
        "record",
        tfds_rows=_flat_record,
        folder="ReCoRD",
        flatten=_record,
        metrics=("f1", "exact_match"),
        submission=_file("ReCoRD.jsonl"),
    ),
    "superglue_rte": _superglue(
        "rte",
        folder="RTE",
        texts=("premise", "hypothesis"),
        label_names=_ENTAILMENT,
        beside={
            "test_ax_b": _diagnostic("AX-b", ("sentence1", "sentence2"), ("matthews_correlation",)),
            "test_ax_g": _diagnostic("AX-g", ("premise", "hypothesis"), ("accuracy",)),
        },
        submission=Submission(
            {"test": "RTE.jsonl", "test_ax_b": "AX-b.jsonl", "test_ax_g": "AX-g.jsonl"},
            JsonLines("idx"),
        ),
    ),
    "wic": _truth(
        "wic",
        tfds_rows=_wic,
        folder="WiC",
        texts=("sentence1", "sentence2"),
        flatten=_wic,
        submission=_file("WiC.jsonl"),
    ),
    "wsc": _truth(
        "wsc",
        tfds_rows=_flat_wsc,
        folder="WSC",
        texts=("text",),
        flatten=_wsc,
        # As jiant writes this one.
        submission=_file("WSC.jsonl", ("False", "True")),
    ),
}
