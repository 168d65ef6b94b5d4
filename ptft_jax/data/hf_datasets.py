"""Data sets of labelled examples that the Hugging Face library `datasets` reads.

Named hf:[ORGANISATION/]NAME[/CONFIG] on the Hub, hf:FOLDER for a folder of .parquet, .csv or .jsonl
whose file names say the split (as repositories of the Hub have them), or simply a folder that
`DatasetDict.save_to_disk` wrote. From version 4 on the library runs no code of a data set.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptft_jax.errors import ConfigError

PREFIX = "hf:"
_SAVED = "dataset_dict.json"
_ROWS_AT_ONCE = 1000


def is_hf(data_dir: str | Path | None) -> bool:
    """Whether `datasets` reads this: a name after hf:, or a folder that it wrote."""
    is_saved = data_dir is not None and (Path(data_dir) / _SAVED).is_file()
    return is_saved or str(data_dir or "").startswith(PREFIX)


class HfSplit:
    """One split of a data set; `source` is its name for messages."""

    def __init__(self, dataset: Any, source: str) -> None:
        self.source = source
        self.columns: list[str] = list(dataset.column_names)
        self._dataset = dataset

    def class_names(self, column: str) -> tuple[str, ...]:
        """The names of the classes whose numbers a column holds, () of one without such names."""
        feature = self._dataset.features.get(column)
        # A list of labels is described by its elements.
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return tuple(names or ())

    def records(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the rows, counted from 1, with these of the columns; None: all."""
        # In plain Python, whatever format they were saved with.
        rows = self._dataset.with_format(None)
        if columns is not None:
            rows = rows.select_columns([name for name in self.columns if name in columns])
        number = 0
        for batch in rows.iter(_ROWS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, values, strict=True))


def read_hf(data_dir: str | Path) -> dict[str, HfSplit]:
    """The splits of a data set by their own names; see `is_hf`.

    Raises ConfigError where the library is missing or too old, and where there is no such data set.
    """
    named = str(data_dir)
    datasets = _library(named)
    try:
        if named.startswith(PREFIX):
            path, config = _parse(named)
            found: Any = datasets.load_dataset(path, config)
        else:
            found = datasets.load_from_disk(named)
    except ConfigError:
        raise
    except Exception as error:  # the library has a dozen kinds, most of them from the network
        raise ConfigError(
            f"data_dir={named} cannot be opened ({type(error).__name__}: {error}); expected "
            "hf:[ORGANISATION/]NAME[/CONFIG], hf:FOLDER, or a folder that save_to_disk wrote. "
            "Without network, fetch the data set elsewhere and copy that folder"
        ) from error
    return {split: HfSplit(rows, f"{named} {split}") for split, rows in found.items()}


def _library(named: str) -> Any:
    try:
        import datasets
    except ImportError:
        version = "not installed"
    else:
        if int(datasets.__version__.partition(".")[0]) >= 4:
            datasets.disable_progress_bars()
            return datasets
        # Before 4 a data set could bring code of its own.
        version = datasets.__version__
    raise ConfigError(
        f"data_dir={named} needs the package datasets, version 4 or later ({version} here); run "
        "PTFT_EXTRAS=hf bash launch/setup.sh"
    )


def _parse(named: str) -> tuple[str, str | None]:
    path = named.removeprefix(PREFIX)
    # No name is not the folder that a person happens to be in.
    if path and Path(path).expanduser().is_dir():
        return str(Path(path).expanduser()), None
    names = path.split("/")
    if not all(names) or len(names) > 3:
        raise ConfigError(
            f"data_dir={named}: expected hf:[ORGANISATION/]NAME[/CONFIG], or hf: and a folder"
        )
    return "/".join(names[:2]), names[2] if len(names) == 3 else None
