"""TensorFlow Datasets are read without TensorFlow: GLUE, and text sets that are prepared already.

TFDS keeps prepared datasets in $TFDS_DATA_DIR (default ~/tensorflow_datasets) as ArrayRecord files.
A GLUE task that is not there yet is downloaded, but only if the host answers: TFDS itself would go
on retrying for minutes on a machine without network, and then say nothing about what to do instead.
A text set is never downloaded here: Wikipedia takes hours, and packages that nothing else needs.
"""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ptft_jax.errors import ConfigError

DOWNLOAD_HOST = "https://dl.fbaipublicfiles.com"
ANSWER_SECONDS = 5.0


def read_glue(
    name: str, text_columns: Sequence[str], folder: str
) -> dict[str, tuple[tuple[list[str], ...], list[float]]]:
    """Texts and labels of all splits of the TFDS dataset glue/`name`, in the files' first order.

    Splits have the names of TFDS; labels are -1 where there are none. text_columns: the features
    that hold the texts. folder: the task's name in the standard TSV layout, for the error message.
    Raises ConfigError if the task is neither prepared nor to be had.
    """
    # Imported here because TFDS takes a second to import; the module of GLUE registers it, which
    # without TensorFlow does not happen by itself.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text.glue

    data_dir = os.environ.get("TFDS_DATA_DIR")
    try:
        with absl_errors_only():  # TFDS warns of each folder that is not there
            builder: Any = tfds.builder(
                f"glue/{name}", data_dir=data_dir, file_format="array_record"
            )
            is_prepared = builder.is_prepared()
    except ValueError as error:
        raise ConfigError(
            f"glue/{name} in {data_dir or 'the folder of TFDS'} is not in the format array_record, "
            f"the one that is read without TensorFlow ({error}); {_instead(name, folder)}"
        ) from error
    if not is_prepared:
        _prepare(builder, name, folder)
    splits = {}
    sources: Any = builder.as_data_source()
    for split, source in sources.items():
        rows = sorted(source.__getitems__(list(range(len(source)))), key=lambda row: row["idx"])
        texts = tuple([row[column].decode("utf-8") for row in rows] for column in text_columns)
        splits[split] = texts, [float(row["label"]) for row in rows]
    return splits


def _prepare(builder, name: str, folder: str) -> None:
    import tensorflow_datasets as tfds

    if not answers(DOWNLOAD_HOST):
        raise ConfigError(
            f"the GLUE task '{name}' is not prepared in {builder.data_path} and {DOWNLOAD_HOST}, "
            f"from which it is downloaded, gives no answer; {_instead(name, folder)}"
        )
    try:
        builder.download_and_prepare(
            # A copy prepared by others may be in a format that needs TensorFlow.
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except Exception as error:
        raise ConfigError(
            f"the GLUE task '{name}' could not be downloaded from {DOWNLOAD_HOST} "
            f"({type(error).__name__}: {error}); {_instead(name, folder)}"
        ) from error


def _instead(name: str, folder: str) -> str:
    return (
        "do one of these:\n"
        f"  1. pass --config.data_dir=GLUE_DIR, where GLUE_DIR/{folder}/ holds train.tsv, dev.tsv, "
        "… of the standard GLUE download\n"
        "  2. on a machine with network run\n"
        '       TFDS_DATA_DIR=DIR python -c "import tensorflow_datasets as tfds, '
        f"tensorflow_datasets.text.glue; tfds.builder('glue/{name}', "
        "file_format='array_record').download_and_prepare()\"\n"
        "     then copy DIR here and set TFDS_DATA_DIR=DIR"
    )


def answers(url: str) -> bool:
    """Whether the host of a URL answers an HTTP request at all, within ANSWER_SECONDS."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as refusal:  # an answer, if not a friendly one
        refusal.close()
    except OSError:
        return False
    return True


def text_builder(name: str) -> Any:
    """The TFDS builder of the prepared dataset NAME[/CONFIG][:VERSION], in the format array_record.

    Raises ConfigError, with the commands that prepare it, when it is not prepared.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = os.environ.get("TFDS_DATA_DIR")
    place = data_dir or "the folder of TFDS"
    instead = (
        "prepare it on a machine with network:\n"
        f"       TFDS_DATA_DIR=DIR tfds build {name} --file_format=array_record\n"
        "     (pip install tensorflow-datasets tensorflow apache-beam mwparserfromhell), then copy "
        "DIR here and set TFDS_DATA_DIR=DIR; or give the text as files (.txt, .jsonl, .parquet)"
    )
    try:
        with absl_errors_only():
            return read_only_builder.builder_from_files(
                name, data_dir=data_dir, file_format="array_record"
            )
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(
            f"the dataset {name!r} of TFDS is not prepared in {place}; {instead}"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{name!r} in {place} is not in the format array_record, the one that is read without "
            f"TensorFlow ({error}); {instead}"
        ) from error


class TfdsSplit:
    """One split of a prepared dataset, as `data.hf_datasets.HfSplit` is of another library's."""

    def __init__(self, rows: Any, features: Any, source: str) -> None:
        self.source = source
        self._rows, self._features = rows, dict(features.items())

    def class_names(self, column: str) -> tuple[str, ...]:
        """The names of the classes whose numbers a column holds, () of one without such names."""
        return tuple(getattr(self._features.get(column), "names", None) or ())

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the rows in plain Python, counted from 1, in the files' first order if known.

        TFDS shuffles its files; `idx` is what SuperGLUE numbers them by.
        """
        rows = [_plain(row) for row in self._rows.__getitems__(list(range(len(self._rows))))]
        if rows and "idx" in rows[0]:
            rows.sort(key=lambda row: _place(row["idx"]))
        yield from enumerate(rows, 1)


def read_prepared(name: str) -> dict[str, TfdsSplit]:
    """The splits of the prepared dataset NAME[/CONFIG]; see `text_builder`."""
    builder = text_builder(name)
    sources: Any = builder.as_data_source()
    features = builder.info.features
    return {
        split: TfdsSplit(rows, features, f"TFDS {name} {split}") for split, rows in sources.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _place(idx: Any) -> tuple[int, ...]:
    names = ("passage", "paragraph", "query", "question", "answer")
    return tuple(idx[n] for n in names if n in idx) if isinstance(idx, dict) else (idx,)


@contextmanager
def absl_errors_only() -> Iterator[None]:
    """TFDS warns of each folder that is not there; inside, it keeps that to itself."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
