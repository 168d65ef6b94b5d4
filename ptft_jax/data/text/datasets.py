"""Text sets of TensorFlow Datasets and of the Hugging Face Hub as parts of a source."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptft_jax.data import tfds
from ptft_jax.data.corpus.store import DatasetRecord, FileRecord
from ptft_jax.data.text.documents import Document, Report, missing_column, record_documents, stop
from ptft_jax.errors import ConfigError, DataError

# Records are fetched this many at a time; one may be a whole book.
_RECORDS_AT_ONCE = 64
_VERSION = re.compile(r"\d+\.\d+\.\d+\Z")


class _DatasetPart:
    """A split of a dataset; `size` is 1 where the dataset does not know its own."""

    def __init__(
        self,
        location: str,
        text_column: str,
        join_lines: bool,
        columns: list[str],
        size: int,
        record: DatasetRecord,
    ) -> None:
        if text_column not in columns:
            raise ConfigError(missing_column(f"inputs: {location!r}", text_column, columns))
        self.name = self.location = location
        self.size = size or 1
        self.identity = {"name": record.name, "version": record.version, "split": record.split}
        self.record: FileRecord | DatasetRecord | None = None
        self._described = record
        self._text_column = text_column
        self._join_lines = join_lines

    def _documents(self, number: int, text: object, report: Report) -> Iterator[tuple[str, ...]]:
        """The document of a record, which are counted from 1."""
        where = f"{self.name}, record {number}"
        return record_documents(where, text, report, self._join_lines)


class TfdsPart(_DatasetPart):
    """A split of a dataset prepared by TFDS, read as ArrayRecord without TensorFlow."""

    def __init__(self, location: str, text_column: str, join_lines: bool = False) -> None:
        """`location` is tfds:NAME[/CONFIG][:VERSION][:SPLIT]; the split is train unless named.

        Raises ConfigError when the dataset is neither prepared nor to be had, has no such split, or
        has no such column of text.
        """
        name, *rest = location.removeprefix("tfds:").split(":", 2)
        if rest and _VERSION.match(rest[0]):
            name = f"{name}:{rest.pop(0)}"
        split = ":".join(rest) or "train"
        if not name:
            raise ConfigError(
                f"inputs: {location!r}: expected tfds:NAME[/CONFIG][:VERSION][:SPLIT]"
            )
        builder = tfds.text_builder(name)
        with tfds.absl_errors_only():
            try:
                self._source: Any = builder.as_data_source(split=split)
            except (ValueError, KeyError) as error:
                raise ConfigError(
                    f"inputs: {location!r}: no split {split!r} ({error}); it has "
                    f"{', '.join(builder.info.splits)}"
                ) from error
        config = builder.builder_config
        record = DatasetRecord(
            "tfds:" + (f"{builder.name}/{config.name}" if config else builder.name),
            str(builder.info.version),
            split,
            len(self._source),
        )
        size = int(builder.info.splits[split].num_bytes)
        columns: list[str] = sorted(builder.info.features or ())
        super().__init__(location, text_column, join_lines, columns, size, record)

    def read(self, report: Report = stop) -> Iterator[Document]:
        """Yield the records as documents, in the order of the dataset."""
        count = len(self._source)
        for start in range(0, count, _RECORDS_AT_ONCE):
            indices = list(range(start, min(start + _RECORDS_AT_ONCE, count)))
            for index, record in zip(indices, self._source.__getitems__(indices), strict=True):
                text = record[self._text_column]
                if isinstance(text, bytes):
                    try:
                        text = text.decode("utf-8")
                    except UnicodeDecodeError as error:
                        report(f"{self.name}, record {index + 1}: not UTF-8 ({error})")
                        continue
                for lines in self._documents(index + 1, text, report):
                    yield Document(lines, self.size * (index + 1) // count)
        self.record = self._described


class HuggingFacePart(_DatasetPart):
    """A split of a dataset of the Hugging Face Hub, or of a folder that `datasets` reads, streamed.

    It is never held in memory nor stored whole.
    """

    def __init__(self, location: str, text_column: str, join_lines: bool = False) -> None:
        """`location` is hf:[ORGANISATION/]NAME[/CONFIG][:SPLIT]; the split is train unless named.

        Raises ConfigError when the package `datasets` is missing, and when the dataset cannot be
        reached or has no such config, split or column.
        """
        path, config, split = _parse_hugging_face(location)
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(
                f"inputs: {location!r} needs the package `datasets`, which is not installed; run "
                "PTFT_EXTRAS=hf bash launch/setup.sh"
            ) from error
        datasets.disable_progress_bars()
        try:
            builder = datasets.load_dataset_builder(path, config)
            stream: Any = builder.as_streaming_dataset(split=split)
            columns = stream.column_names
            if columns is None:
                columns = list(next(iter(stream), {text_column: ""}))
        except Exception as error:  # the library has a dozen kinds, most of them from the network
            raise ConfigError(
                f"inputs: {location!r} cannot be opened ({type(error).__name__}: {error}); expected"
                " hf:[ORGANISATION/]NAME[/CONFIG][:SPLIT]. Without network, fetch the dataset's "
                ".parquet files elsewhere and give them as files"
            ) from error
        info = (builder.info.splits or {}).get(split)
        self._expected = int(getattr(info, "num_examples", 0) or 0)
        # The commit of a dataset on the Hub; of a folder, a hash of its files.
        commit = re.match(r"hf://[^@]*@([^/]+)", str(builder.base_path))
        name = Path(path).name if Path(path).is_dir() else path
        record = DatasetRecord(
            f"hf:{name}{f'/{config}' if config else ''}",
            commit[1] if commit else str(builder.hash),
            split,
            0,
        )
        size = int(getattr(info, "num_bytes", 0) or 0)
        super().__init__(location, text_column, join_lines, columns, size, record)
        self._stream = stream.select_columns([text_column])

    def read(self, report: Report = stop) -> Iterator[Document]:
        """Yield the records as documents, in the order of the dataset."""
        count, records = 0, iter(self._stream)
        while True:
            try:
                record = next(records, None)
            except Exception as error:  # the network, most of the time
                raise DataError(
                    f"{self.name}: reading failed ({type(error).__name__}: {error}); start the "
                    "same command again"
                ) from error
            if record is None:
                break
            count += 1
            done = self.size * count // max(self._expected, count)
            for lines in self._documents(count, record[self._text_column], report):
                yield Document(lines, done)
        self.record = replace(self._described, records=count)


def _parse_hugging_face(location: str) -> tuple[str, str | None, str]:
    path, _, split = location.removeprefix("hf:").partition(":")
    split = split or "train"
    if Path(path).is_dir():
        return path, None, split
    names = path.split("/")
    if not all(names) or len(names) > 3:
        raise ConfigError(f"inputs: {location!r}: expected hf:[ORGANISATION/]NAME[/CONFIG][:SPLIT]")
    return "/".join(names[:2]), names[2] if len(names) == 3 else None, split
