"""A run on episodes, from texts or sentences with entities to labels by a support."""

import json
import shutil
import warnings

import numpy as np
import pytest
from command_line import DROPOUT, losses, run
from report_pages import ReportPage, check_scores
from sentence_transformers import SentenceTransformer
from small_encoder import write_encoder

import ptft_jax
from ptft_jax.errors import ConfigError

WORDS = ["ada", "bob", "cat", "dog", "eel", "fox", "gnu", "hen"]
CLASSES = {
    "train": ["likes", "hates", "feeds", "meets"],
    "dev": ["sees", "hears", "smells"],
}


def sentences(verb, count, seed):
    """Returns sentences of a relation whose entities stand at both ends of its verb."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        one, two, more = rng.choice(WORDS, 3, replace=False).tolist()
        tokens = [more, one, verb, two]
        found.append({"tokens": tokens, "h": [one, "", [[1]]], "t": [two, "", [[3]]]})
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoder; its classes as texts in tables, and as relations in FewRel's format."""
    place = tmp_path_factory.mktemp("episodes")
    write_encoder(place / "hf", [" ".join([*WORDS, *CLASSES["train"], *CLASSES["dev"], "@", "#"])])
    for form in ("texts", "relations"):
        (place / form).mkdir()
    for split, verbs in CLASSES.items():
        found = {verb: sentences(verb, 9, number) for number, verb in enumerate(verbs)}
        (place / "relations" / f"{split}.json").write_text(json.dumps(found))
        rows = [
            {"text": " ".join(one["tokens"]), "label": verb}
            for verb, some in found.items()
            for one in some
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "texts" / f"{split}.jsonl").write_text(lines)
    return place


def config_of(data_dir, **changes):
    config = ptft_jax.get_config("finetune/episodes")
    keys = {
        **{"data_dir": str(data_dir), "batch_size": 24, "steps": 4, "checkpoint_every": 2},
        **{"eval_every": 0, "log_every": 1, "max_seq_length": 16, "length_buckets": ()},
        **{"optimizer.learning_rate": 1e-2, "episode.n_way": 2, "episode.k_shot": 2},
        **{"episode.queries": 4, "episode.eval_episodes": 300},
    }
    config.update_from_flattened_dict({**keys, **changes})
    return config


@pytest.mark.parametrize("form", ["texts", "relations"])
def test_a_run_from_episodes_to_labels_of_new_classes(place, form, tmp_path, monkeypatch):
    """Equal after a resume and when scored again; labels are those of the nearest prototype."""
    pooling = "entities" if form == "relations" else "mean"
    config = config_of(place / form, **{"episode.pooling": pooling, **DROPOUT})
    config.episode.eval = ((2, 2), (3, 1))
    run_dir = tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    whole = losses(run_dir)
    names = ("accuracy", "accuracy_interval")
    assert found["dev"].keys() == {"loss", *names, *(f"{name}/3-way-1-shot" for name in names)}
    shutil.rmtree(run_dir / "checkpoints" / "4")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, str(place / "hf"), str(run_dir)) == found
    assert losses(run_dir) == whole
    opened = ptft_jax.load_run(run_dir)
    assert opened.evaluate()["dev"] == pytest.approx(found["dev"])
    check_scores(ReportPage(run_dir / "report.html"), found)

    file = place / form / f"dev.{'json' if form == 'relations' else 'jsonl'}"
    out = tmp_path / "out.jsonl"
    flags = (f"--support={file}", f"--input={file}", f"--output={out}")
    assert run("predict", f"--run_dir={run_dir}", *flags) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    support = {verb: sentences(verb, 9, number) for number, verb in enumerate(CLASSES["dev"])}
    split = tmp_path / "split.jsonl"
    assert run("predict", f"--run_dir={run_dir}", flags[0], "--split=dev", f"--output={split}") == 0
    assert [json.loads(line)["prediction"] for line in split.read_text().splitlines()] == [
        row["prediction"] for row in rows
    ]
    if form == "texts":
        support = {
            verb: [" ".join(one["tokens"]) for one in some] for verb, some in support.items()
        }
        asked = [text for some in support.values() for text in some]
        vectors = opened.embed(asked)
        means = vectors.reshape(3, 9, -1).mean(axis=1)
        nearest = np.sum((vectors[:, None] - means) ** 2, axis=-1).argmin(axis=1)
        assert [row["prediction"] for row in rows] == [CLASSES["dev"][n] for n in nearest]
        assert [row["text"] for row in rows] == asked
        exported = tmp_path / "exported"
        opened.export(exported)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = SentenceTransformer(str(exported)).encode(asked)
        np.testing.assert_allclose(vectors, theirs, atol=1e-5)
        code = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
        assert "distances" in (exported / "README.md").read_text()
        monkeypatch.chdir(exported)
        exec(compile(code, "README.md", "exec"), {})
    else:
        assert rows[0]["text"].count("@") == rows[0]["text"].count("#") == 2
        asked = [one for some in support.values() for one in some]
        labels = [one["label"] for one in opened.predict(asked, support=support)]
        assert labels == [row["prediction"] for row in rows]
        with pytest.raises(ConfigError, match="makes vectors of two entities of a sentence"):
            opened.embed(["ada sees bob"])
        with pytest.raises(ConfigError, match="looks at two entities of each sentence"):
            opened.predict(["ada sees bob"], support=support)
    with pytest.raises(ConfigError, match=r"expected support, .* there are: sees"):
        opened.predict(asked, support={"sees": support["sees"]})
    with pytest.raises(ConfigError, match="stands for none of the labels; expected another"):
        opened.predict(asked, support={**support, "(none)": support["sees"]})
    for texts, given in (("ada sees", support), (asked, {**support, "sees": "ada sees bob"})):
        with pytest.raises(ConfigError, match=r"is a single text|two entities of each"):
            opened.predict(texts, support=given)
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({"episode.k_shot": 1, "batch_size": 40})
    with pytest.raises(ConfigError, match=r"config.episode.k_shot: 2 in the run, 1 now"):
        ptft_jax.finetune(changed, str(place / "hf"), str(run_dir))


def test_packed_rows_and_micro_batches_on_a_mesh(place, tmp_path):
    """An episode's texts lie in one row, or in several, on one device or on eight."""
    more = {"episode.na_rate": 1.0, "episode.queries": 2, "batch_size": 80, "packing": False}
    config = config_of(place / "texts", steps=3, checkpoint_every=0, **more)
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "alone"))
    config.update_from_flattened_dict({"packing": True, "accumulate": 2, "mesh.fsdp": 2})
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "mesh"))
    assert losses(tmp_path / "mesh") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


def test_new_classes_are_told_apart(place, tmp_path):
    """Words that no class of training has, and texts of none: by classes alone 4 of 6 are right."""
    config = config_of(place / "texts", steps=120, checkpoint_every=0, batch_size=40)
    config.update_from_flattened_dict({"episode.queries": 2, "episode.na_rate": 1.0})
    found = ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))["dev"]
    assert found["accuracy"] > 0.8
    texts = {
        verb: [" ".join(one["tokens"]) for one in sentences(verb, 9, number)]
        for number, verb in enumerate(CLASSES["dev"])
    }
    support = {verb: texts[verb][:5] for verb in ("sees", "hears")}
    asked = [(text, verb) for verb in ("sees", "hears") for text in texts[verb][5:]]
    asked += [(text, "(none)") for text in texts["smells"]]
    opened = ptft_jax.load_run(tmp_path / "run")
    labels = opened.predict([text for text, _ in asked], support=support)
    right = [found["label"] == verb for found, (_, verb) in zip(labels, asked, strict=True)]
    assert np.mean(right) > 0.7


def test_scores_are_means_over_episodes(place):
    """Counted one by one, with the interval of their mean."""
    from ptft_jax.data.tasks.episodes.drawing import Episodes
    from ptft_jax.runs.kinds.episodes import Episodic

    kind = Episodic(config_of(place / "texts"))
    split = kind.task.splits["dev"]
    vectors = np.random.default_rng(0).normal(size=(len(split), 5)).astype(np.float32)
    each = []
    for rows in Episodes(split, kind._shape, 0).draw(np.arange(300)):
        support, queries = vectors[rows[:4]].reshape(2, 2, 5), vectors[rows[4:]]
        distances = np.linalg.norm(queries[:, None] - support.mean(axis=1), axis=-1)
        each.append(np.mean(distances.argmin(axis=1) == [0, 0, 0, 0, 1, 1, 1, 1]))
    found = kind.score(split, vectors)
    assert found["accuracy"] == pytest.approx(np.mean(each))
    half = 1.96 * np.std(each) / np.sqrt(300)
    assert found["accuracy_interval"] == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 25}, "an episode has 12 .* a multiple, like 24"),
        ({"episode.k_shot": 8, "batch_size": 48}, "'feeds' has 9 texts, .* takes 12"),
        ({"episode.eval": ((4, 2),)}, "dev.jsonl has 3 classes, and an episode takes 4"),
        ({"episode.eval": ((2, 2), (2, 2))}, "one stands twice"),
        ({"episode.eval": ((2, 2, 1),)}, "expected pairs of n_way and k_shot"),
        ({"episode.pooling": "entities"}, "expected mean or cls for texts without entities"),
        ({"episode.eval_episodes": 1}, "expected at least 2"),
        ({"episode.eval": (5, 1)}, r"episode.eval=\(5, 1\): expected pairs of n_way and k_shot"),
        ({"augment.swap": 0.1}, "augment: this is not for episodes"),
        ({"max_train_examples": 30}, "max_train_examples: this is not for episodes"),
        ({"teacher": "somewhere"}, "not for vectors of texts"),
    ],
)
def test_what_cannot_be(place, changes, words, tmp_path):
    """One clear error each, before compilation, and nothing written."""
    config = config_of(place / "texts")
    if "episode.eval" in changes:
        config.episode.eval = changes.pop("episode.eval")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=words):
        ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
