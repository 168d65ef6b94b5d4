"""Files of tagged sentences as they are published, and what is wrong with others."""

import json

import pytest

from ptft_jax.data.tasks.files.conll import read_tagged, with_column
from ptft_jax.data.tasks.tagging.splits import are_entities, inside_ids, tag_ids, tag_names
from ptft_jax.errors import ConfigError, DataError

# As the files of the shared task of 2003 begin; the tags of eng.train are IOB1.
CONLL_2003 = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O
. . O O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


@pytest.fixture
def write(tmp_path):
    def write(content, name="train.conll"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_conll_2003(write):
    """Words and the last column; another column on request; document marks are no sentences."""
    file = read_tagged(write(CONLL_2003, "eng.train"))
    assert file.words == [["EU", "rejects", "German", "call", "."], ["Peter", "Blackburn"]]
    assert file.tags == [["I-ORG", "O", "I-MISC", "O", "O"], ["I-PER", "I-PER"]]
    assert file.at(1, 1).endswith("eng.train, line 10")
    assert tag_names(file) == ("O", "I-MISC", "I-ORG", "I-PER")
    speech = read_tagged(write(CONLL_2003), tag_column=1)
    assert speech.tags == [["NNP", "VBZ", "JJ", "NN", "."], ["NNP", "NNP"]]
    assert tag_names(speech) == (".", "JJ", "NN", "NNP", "VBZ")
    assert not are_entities(tag_names(speech))


def test_hashes_are_words_and_comments(write):
    """WNUT-17 has hashtags and lines of one tab; SNIPS and CoNLL-U have comments."""
    content = (
        "# intent: Greet\n#hello\tO\n#\tO\nParis\tB-location\n\t\n\n# a: b\n# c\nNew York\tO\r\n"
    )
    file = read_tagged(write(b"\xef\xbb\xbf" + content.encode()))
    assert file.words == [["#hello", "#", "Paris"], ["New York"]]
    assert file.lines == [[2, 3, 4], [9]]
    assert read_tagged(write("#a\tB-x\n#b\tO")).words == [["#a", "#b"]]
    spaces = read_tagged(write("# text = one\na  x   O\n# y B-z\n"))
    assert (spaces.words, spaces.tags) == ([["a", "#"]], [["O", "B-z"]])
    universal = "# sent_id = 1\n1\tDogs\tdog\tNOUN\n2\tbark\tbark\tVERB\n"
    file = read_tagged(write(universal), word_column=1, tag_column=3)
    assert (file.words, file.tags) == ([["Dogs", "bark"]], [["NOUN", "VERB"]])


def test_other_layouts(write):
    """JSON lines, and the two files of Goo et al. for SNIPS and ATIS."""
    rows = [{"tokens": ["a", "b c"], "tags": ["O", "B-x"], "id": 1}, {"tokens": [], "tags": []}]
    file = read_tagged(write("\n".join(map(json.dumps, rows)), "dev.jsonl"))
    assert (file.words, file.tags) == ([["a", "b c"]], [["O", "B-x"]])
    write("O B-artist \nO", "seq.out")
    file = read_tagged(write("play queen \nstop", "seq.in"))
    assert (file.words, file.tags) == ([["play", "queen"], ["stop"]], [["O", "B-artist"], ["O"]])


def test_a_column_is_appended(write):
    """As conlleval reads it: gold and predicted tags are the last two; other lines stay."""
    file = read_tagged(write(CONLL_2003))
    text = with_column(file, [["B-x", "O", "O", "O", "O"], ["O", "O"]])
    assert text.splitlines()[:4] == [
        "-DOCSTART- -X- O O",
        "",
        "EU NNP I-NP I-ORG B-x",
        "rejects VBZ I-VP O O",
    ]
    assert len(text.splitlines()) == len(CONLL_2003.splitlines())
    file = read_tagged(write("# c\r\na\tO\r\n\t\r\nb\tO"))
    assert with_column(file, [["x"], ["y"]]) == "# c\r\na\tO\tx\r\n\t\r\nb\tO\ty"
    assert with_column(read_tagged(write("a\nb \n"), tag_column=None), [["x", "y"]]) == "a x\nb y\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a\nb\n\nc\n", "test.txt"),
        ("a\t_\nb\t_\n\nc\t_\n", "test.conll"),
        ('{"tokens": ["a", "b"]}\n{"tokens": ["c"]}\n', "test.jsonl"),
        ("a b\nc\n", "seq.in"),
    ],
)
def test_a_file_without_tags(write, content, name):
    file = read_tagged(write(content, name), unlabelled=True)
    assert (file.words, file.tags) == ([["a", "b"], ["c"]], None)
    assert read_tagged(write(content, name), tag_column=None).words == file.words


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("a O\nb\n", "x.conll", "x.conll, line 2: 1 columns where the other lines have 2"),
        ("a\tO\nb\tx\tO\n", "x.tsv", r"line 2: 3 columns .* \(separated by tabs\): 'b"),
        ("a\tO\n\n\tB-x\n", "x.tsv", r"line 3: a tag \('B-x'\) without a word"),
        ("a\tO\nb\t\n", "x.tsv", "line 2: the word 'b' has no tag"),
        ("a\nb\n", "x.txt", "has 1 column; expected a word and its tag"),
        ("\n-DOCSTART- O\n\n", "x.conll", "x.conll has no sentences"),
        (b"a\tO\n\xe9t\xe9\tO\n", "x.tsv", "line 2: not UTF-8"),
        ('{"tokens": ["a", "b"], "tags": ["O"]}', "x.jsonl", "line 1: 2 words and 1 tags"),
        ('{"tokens": ["a"], "tags": [0]}', "x.jsonl", "line 1: 'tags' holds .*list of strings"),
        ('{"tokens": ["\\ud83d"], "tags": ["O"]}', "x.jsonl", "half of a surrogate pair"),
        ('{"words": ["a"], "tags": ["O"]}', "x.jsonl", "no column 'tokens'"),
        ("a b\n", "seq.in", "seq.out, which holds the tags"),
    ],
)
def test_bad_files(write, content, name, message):
    with pytest.raises((ConfigError, DataError), match=message):
        read_tagged(write(content, name))


def test_bad_tags(write):
    """Among the tags of the train split, and against them."""
    with pytest.raises(DataError, match="all words have the tag 'O'; expected at least two"):
        tag_names(read_tagged(write("a O\nb O\n")))
    with pytest.raises(DataError, match="line 4: the tag 'o' among tags of entities"):
        tag_names(read_tagged(write("a O\nb B-x\n\nc o\n")))
    with pytest.raises(ConfigError, match=r"tag_column=2: .* has 2 columns, numbered from 0"):
        read_tagged(write("a O\n"), tag_column=2)
    names = tag_names(read_tagged(write("a B-location\nb O\n")))
    assert names == ("O", "B-location", "I-location")
    dev = read_tagged(write("a O\nb I-location\n", "dev.conll"))
    assert [ids.tolist() for ids in tag_ids(dev, names)] == [[0, 2]]
    dev = read_tagged(write("a O\n\nb B-locaton\n", "dev.conll"))
    with pytest.raises(DataError, match=r"line 3: .*'B-locaton' .*did you mean 'B-location'\?"):
        tag_ids(dev, names)


def test_sets_of_tags(write):
    """All prefixes of a file with every type; tags of words stay as they are."""
    rows = "a B-x\nb I-x\nc E-x\nd S-y\ne O\n"
    names = tag_names(read_tagged(write(rows)))
    assert names == ("O", "B-x", "B-y", "E-x", "E-y", "I-x", "I-y", "S-x", "S-y")
    assert inside_ids(names) == {1: 5, 2: 6}
    bare = tag_names(read_tagged(write("a B\nb I\nc O\n")))
    assert bare == ("O", "B", "I")
    assert are_entities(bare)
    assert inside_ids(bare) == {1: 2}
    tweets = tag_names(read_tagged(write("a O\nb S\nc U\nd V\n")))
    assert not are_entities(tweets)


def test_real_files(shared_data):
    """WNUT-17 and SNIPS as they are published."""
    for folder, files, counts, tags in (
        ("wnut17", ("wnut17train.conll", "emerging.dev.conll"), (3394, 1009), 13),
        ("snips", ("train.slots.conll", "valid.slots.conll"), (13784, 700), 79),
    ):
        if not (shared_data / folder).exists():
            pytest.skip(f"needs {shared_data / folder}")
        train, dev = (read_tagged(shared_data / folder / name) for name in files)
        assert (len(train.words), len(dev.words)) == counts
        names = tag_names(train)
        assert len(names) == tags
        assert are_entities(names)
        assert len(tag_ids(dev, names)) == counts[1]
