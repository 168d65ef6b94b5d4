"""Tables are read strictly: every way a file can be wrong is one error with file and line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ptft_jax.data.tasks.files.reading import find_split, read_table
from ptft_jax.errors import ConfigError, DataError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_quotes_and_line_breaks(tmp_path):
    """A quoted CSV field may hold line breaks, or a whole document; rows know where they begin."""
    long = "d" * 300_000  # the csv module's own limit is 128 KiB
    path = write(tmp_path, "t.csv", f'text,label\r\n"a, ""b""\nc",x\r\n{long},y\r\n\r\n')
    table = read_table(path)
    assert table.columns == {"text": ['a, "b"\nc', long], "label": ["x", "y"]}
    assert table.lines == [2, 4]
    assert table.at(1) == f"{path}, line 4"


def test_tsv_has_no_quoting_and_a_bom_is_dropped(tmp_path):
    """GLUE files have stray quotes, Windows line ends and (MRPC) a byte-order mark."""
    path = write(
        tmp_path,
        "t.tsv",
        b'\xef\xbb\xbftext\tlabel\r\n"open quote\t1\r\nhe said "x"\x0b\xc2\x85y\t0\r\n',
    )
    assert read_table(path).columns == {
        "text": ['"open quote', 'he said "x"\x0b\x85y'],
        "label": ["1", "0"],
    }


def test_parquet(tmp_path):
    """What Hugging Face datasets are stored in; its values keep their types, its rows numbers."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "é\r\n"], "no": [[1], [2]], "label": [1, 0]}), path)
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": ["a", "é\r\n"], "label": [1, 0]}
    assert table.at(1) == f"{path}, row 2"
    with pytest.raises(DataError, match="no column 'txt'"):
        read_table(path, ["txt"])


def test_a_header_can_be_given_and_columns_chosen(tmp_path):
    """CoLA has no header line; MNLI's parse columns need not be kept in memory."""
    path = write(tmp_path, "t.tsv", "s\t1\t*\tfirst\ns\t0\t\tsecond\n")
    table = read_table(
        path, ["text", "label"], header=("source", "label", "mark", "text"), optional=("mark", "no")
    )
    assert table.columns == {
        "label": ["1", "0"],
        "mark": ["*", ""],
        "text": ["first", "second"],
    }


def test_one_column_keeps_empty_texts(tmp_path):
    """An empty line inside a one-column table is an empty text, one at its end is not a row."""
    for name in ("t.tsv", "t.csv"):
        table = read_table(write(tmp_path, name, "text\na\n\nb\n\n"))
        assert table.columns["text"] == ["a", "", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.tsv",
            b"text\tlabel\nok\t1\nna\xefve\t0\n",
            r"line 3: not UTF-8 \(byte 0xef at column 3",
        ),
        ("t.jsonl", b'{"text": "\xff"}\n', r"line 1: not UTF-8"),
        (
            "t.tsv",
            "text\tlabel\na\t1\nb\t0\tz\n",
            r"line 3: 3 columns where 2 are expected \(text, ",
        ),
        ("t.csv", 'text,label\n"a\nb",1\nc\n', r"line 4: 1 columns where 2 are expected"),
        ("t.csv", 'text,label\n"a,1\n', r"begins on line 2: not valid"),
        ("t.tsv", "text\tlabel\na\rb\t1\n", r"begins on line 2: not valid"),
        ("t.parquet", "no Parquet", r"cannot be read as Parquet"),
        ("t.csv", "text,text\na,b\n", r"column 'text' occurs more than once"),
        ("t.csv", "", "has no rows"),
        ("t.jsonl", "\n", "has no rows"),
        ("t.jsonl", '{"text": "a"}\n{"text": \n', "line 2: not valid JSON"),
        ("t.jsonl", '["a"]\n', "line 1: a JSON list; expected one object per line"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2: no field 'label'"),
        ("t.csv", "text;label\na;1\n", "text;label; commas separate the columns of a .csv"),
        ("t.csv", "text;label\na, b;1\n", r"line 2: 2 columns .* tabs those of a \.tsv"),
        ("t.tsv", "text,label\na,1\n", "its columns are: text,label; commas separate"),
        (
            "t.csv",
            "Text,lable\na,1\n",
            r"has no column 'label' \(did you mean 'lable'\?\); its columns are: Text, lable",
        ),
    ],
)
def test_bad_content_names_file_and_line(tmp_path, name, content, message):
    """Each fault of a file ends in one DataError that says where it is."""
    path = write(tmp_path, name, content)
    wanted = ["label"] if "label" in message else None
    with pytest.raises(DataError, match=message) as error:
        read_table(path, wanted)
    assert str(path) in str(error.value)


def test_short_rows_can_be_dropped_but_long_ones_never(tmp_path):
    """QQP's own readers leave out its broken rows; a row too long has text in the wrong column."""
    path = write(tmp_path, "t.tsv", "a\tb\n1\t2\n3\n4\t5\n")
    assert read_table(path, drop_short_rows=True).columns == {"a": ["1", "4"], "b": ["2", "5"]}
    path = write(tmp_path, "long.tsv", "a\tb\n1\t2\t3\n")
    with pytest.raises(DataError, match="line 2"):
        read_table(path, drop_short_rows=True)


def test_files_that_are_not_one_table_each(tmp_path):
    """A path that cannot be a table is a setting to mend, not bad content."""
    with pytest.raises(ConfigError, match="no such file"):
        read_table(tmp_path / "t.csv")
    assert find_split(tmp_path, "dev") is None
    for name in ("dev.jsonl", "dev.csv"):
        write(tmp_path, name, "text\na\n")
    with pytest.raises(ConfigError, match=r"dev\.csv and dev\.jsonl"):
        find_split(tmp_path, "dev")
    with pytest.raises(
        ConfigError, match=r"must end in \.csv, \.tsv, \.jsonl, \.parquet, not '\.txt'"
    ):
        read_table(write(tmp_path, "t.txt", "a"))
