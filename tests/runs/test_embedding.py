"""Vectors of texts, from pairs to a folder that sentence-transformers loads."""

import json
import shutil
import warnings

import numpy as np
import pytest
from command_line import DROPOUT, losses
from report_pages import ReportPage, check_scores
from sentence_transformers import SentenceTransformer
from small_encoder import TEXTS, write_encoder

import ptft_jax
from ptft_jax.cli import main
from ptft_jax.errors import ConfigError, DataError


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


def config_of(data_dir, **changes):
    config = ptft_jax.get_config("finetune/embed")
    keys = {
        **{"data_dir": str(data_dir), "batch_size": 16, "steps": 4, "checkpoint_every": 2},
        **{"eval_every": 0, "log_every": 1, "max_seq_length": 16, "length_buckets": ()},
        **{"optimizer.learning_rate": 1e-3, **DROPOUT},
    }
    config.update_from_flattened_dict({**keys, **changes})
    return config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoder, pairs with some third texts, and pairs with scores."""
    place = tmp_path_factory.mktemp("embedding")
    write_encoder(place / "hf", TEXTS)
    pairs = [
        {
            "sentence1": text,
            "sentence2": TEXTS[number - 1],
            "negative": [TEXTS[number - 2], None][number % 2],
        }
        for number, text in enumerate(TEXTS)
    ]
    write(place / "pairs", pairs)
    scored = [
        {"sentence1": text, "sentence2": TEXTS[number // 2], "score": number % 5}
        for number, text in enumerate(TEXTS)
    ]
    write(place / "scored", scored)
    return place


@pytest.mark.parametrize("kind", ["pairs", "scored"])
def test_a_run_from_pairs_to_sentence_transformers(place, kind, tmp_path):
    """Equal after a resume and when scored again; vectors equal theirs."""
    dims = (16, 4) if kind == "scored" else ()
    config = config_of(place / kind, **{"embedding.dims": dims})
    run_dir = tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    whole = losses(run_dir)
    metrics = {"spearman", "pearson", "spearman/16", "spearman/4"} if dims else {"accuracy", "mrr"}
    assert found["dev"].keys() == {"loss", *metrics}
    shutil.rmtree(run_dir / "checkpoints" / "4")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, str(place / "hf"), str(run_dir)) == found
    assert losses(run_dir) == whole
    run = ptft_jax.load_run(run_dir)
    scored = run.evaluate()["dev"]
    assert scored == {key: found["dev"][key] for key in scored}
    check_scores(ReportPage(run_dir / "report.html"), found)
    exported = tmp_path / "exported"
    assert run.export(exported).model_class == "BertModel"
    vectors = run.embed(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SentenceTransformer(str(exported)).encode(TEXTS)
    np.testing.assert_allclose(vectors, theirs, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(ptft_jax.load_run(exported).embed(TEXTS), vectors, atol=1e-6)
    shorter = run.embed(TEXTS, dims=4)
    expected = vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(shorter, expected, rtol=1e-4)
    with pytest.raises(ConfigError, match="dims=17: expected a number from 1 to 16"):
        run.embed(TEXTS, dims=17)
    with pytest.raises(ConfigError, match="makes vectors of texts: ask `ptft embed`"):
        run.predict(TEXTS)


def test_packed_rows_and_micro_batches_on_a_mesh(place, tmp_path):
    """Dropout is of a row, and rows are others where none is shared: these runs have none."""
    config = config_of(place / "pairs", steps=3, checkpoint_every=0)
    plain = {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0}
    config.update_from_flattened_dict({**plain, "packing": False})
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "alone"))
    config.update_from_flattened_dict({"packing": True, "accumulate": 2, "mesh.fsdp": 2})
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "mesh"))
    assert losses(tmp_path / "mesh") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


def test_texts_find_their_own(place, tmp_path):
    """Sixteen pairs of the same words in another order are told apart after a few updates."""
    pairs = [
        {"sentence1": text, "sentence2": " ".join(reversed(text.split()))} for text in TEXTS[:16]
    ]
    data = write(tmp_path / "data", pairs)
    config = config_of(data, steps=40, batch_size=16, checkpoint_every=0)
    config.update_from_flattened_dict(
        {"model.hidden_dropout_prob": 0.0, "optimizer.learning_rate": 1e-2}
    )
    found = ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))["dev"]
    assert found["accuracy"] == 1
    assert found["mrr"] == 1


def test_the_tasks_of_glue(tmp_path):
    """nli: what follows, with what contradicts; sts: scores; both from GLUE's own files."""
    from ptft_jax.data.tasks.catalogue import load_task

    (tmp_path / "MNLI").mkdir()
    (tmp_path / "STS-B").mkdir()
    rows = [("p", "e", "entailment"), ("p", "c", "contradiction"), ("q", "f", "entailment")]
    table = "sentence1\tsentence2\tgold_label\n" + "".join("\t".join(row) + "\n" for row in rows)
    for split in ("train", "dev_matched", "dev_mismatched"):
        (tmp_path / "MNLI" / f"{split}.tsv").write_text(table)
    for split in ("train", "dev"):
        (tmp_path / "STS-B" / f"{split}.tsv").write_text(
            "sentence1\tsentence2\tscore\na\tb\t5.0\nc\td\t1.25\n"
        )
    nli, sts = load_task("nli", tmp_path), load_task("sts", tmp_path)
    assert nli.splits["train"].texts == [["p", "e", "c"], ["q", "f"]]
    assert nli.splits["train"].scores is None
    assert sts.splits["train"].texts == nli.splits["dev"].texts == [["a", "b"], ["c", "d"]]
    np.testing.assert_array_equal(nli.splits["dev"].likeness, [1, 0])
    assert nli.metrics == ("spearman", "pearson")


def test_what_is_the_nearest(tmp_path):
    """Of its own text's copy, of other right ones and of ties; scores that only train lacks."""
    from ptft_jax.data.tasks.embedding import EmbeddingSplit
    from ptft_jax.runs.kinds.embedding import ranks_of

    split = EmbeddingSplit([["a", "b"], ["b", "a"], ["a", "c"]], None, "dev")
    vectors = np.eye(3)[[[0, 1], [1, 0], [0, 2]]] + 0.1
    assert ranks_of(split, vectors)[0].tolist() == [1, 2, 1]
    alike = EmbeddingSplit([[f"{n}", f"other {n}"] for n in range(5)], None, "dev")
    assert ranks_of(alike, np.ones((5, 2, 3)))[0].tolist() == [5] * 5


def test_rows_may_lack_what_is_optional(place, tmp_path):
    """Train without scores and dev with them, each in the file's own order of keys."""
    folder = write(tmp_path / "data", [{"sentence1": "a", "sentence2": "b", "score": 1}] * 2)
    rows = [{"sentence1": text, "sentence2": TEXTS[0]} for text in TEXTS]
    rows[5]["negative"] = TEXTS[1]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dev = [
        {"sentence1": text, "sentence2": TEXTS[n // 2], "score": n} for n, text in enumerate(TEXTS)
    ]
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dev))
    config = config_of(folder, steps=1)
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    run = ptft_jax.load_run(tmp_path / "run")
    assert run.evaluate()["dev"].keys() == {"loss", "spearman", "pearson"}
    assert run.evaluate(split="train")["train"].keys() == {"loss", "accuracy", "mrr"}
    asked = ["--input=" + str(folder / "dev.jsonl"), "--output=" + str(tmp_path / "v.npy")]
    assert main(["embed", f"--run_dir={tmp_path / 'run'}", *asked]) == 0
    assert main(["predict", f"--run_dir={tmp_path / 'run'}", "--split=dev"]) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embedding.loss": "triplet"}, "embedding.loss='triplet': expected ranking, cosent, cos"),
        ({"embedding.loss": "cosent"}, "has no scores of likeness; expected ranking, or a column"),
        ({"embedding.loss": "cosine"}, "loss=cosine: .* has no scores of likeness"),
        ({"embedding.pooling": "max"}, "embedding.pooling='max': expected mean, cls"),
        ({"embedding.dims": (32,)}, r"embedding.dims=\(32,\): expected different numbers from 1"),
        ({"embedding.scale": 0.0}, "embedding.scale=0.0: expected more than 0"),
        ({"batch_size": 1}, "batch_size=1: a pair is told from the others"),
        ({"regularizer.name": "r_drop"}, "regularizer.name=r_drop: this is not for vectors"),
        ({"table.first_column": "first"}, "first"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_end_before_anything_is_written(place, changes, expected, tmp_path):
    config = config_of(place / "pairs", **changes)
    with pytest.raises((ConfigError, DataError), match=expected):
        ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_commands_say_what_to_do_next(place, tmp_path, capsys, monkeypatch):
    """The lines that are printed can be pasted."""
    monkeypatch.chdir(tmp_path)
    flags = [
        f"--init_from={place / 'hf'}",
        "--run_dir=run",
        "--config.steps=1",
        "--config.max_seq_length=16",
    ]
    data = f"--config.data_dir={place / 'pairs'}"
    name = "--config=" + str(ptft_jax.__file__).replace(
        "ptft_jax/__init__.py", "configs/finetune/embed.py"
    )
    assert main(["finetune", name, data, *flags, "--config.batch_size=8"]) == 0
    said = capsys.readouterr().out
    assert 'echo "a text" | ptft embed --run_dir=run --input=- --output=vectors.npy' in said
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    asked = ["--input=texts.txt", "--output=vectors.npy", "--dims=8"]
    assert main(["embed", "--run_dir=run", *asked]) == 0
    assert "mean, then length 1" in capsys.readouterr().out
    assert np.load("vectors.npy").shape == (len(TEXTS), 8)
