"""Each kind of task, from files to an exported folder: trained, resumed, scored again, compared."""

import json
import shutil

import pytest
from command_line import sentences
from report_pages import ReportPage, check_scores
from small_encoder import write_encoder

import ptft_jax
from ptft_jax.cli import main
from ptft_jax.data.tasks.files.reading import read_table
from ptft_jax.errors import ConfigError

TEXTS = [text for text, _ in sentences(24, 1)]


def multi_label(folder):
    for split in ("train", "dev"):
        rows = [
            {"text": text, "label": [name for bit, name in enumerate("ab") if number >> bit & 1]}
            for number, text in enumerate(TEXTS)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "finetune/text", {"table.multi_label": True}, "BertForSequenceClassification", TEXTS[:2]


def choice(folder):
    for split in ("train", "dev"):
        rows = [
            {"context": text, "choices": [text, TEXTS[0], TEXTS[1]][: 2 + number % 2], "label": 0}
            for number, text in enumerate(TEXTS)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [("", *TEXTS[:3]), "\t".join(TEXTS[:4])]
    return "finetune/choice", {}, "BertForMultipleChoice", asked


def tagging(folder):
    for split in ("train", "dev"):
        rows = [
            "\n".join(f"{word} {'B-X' if word > 's' else 'O'}" for word in text.split())
            for text in TEXTS
        ]
        (folder / f"{split}.conll").write_text("\n\n".join(rows))
    # Rows of three words, so that sentences are windowed.
    return "finetune/tagging", {"max_seq_length": 5}, "BertForTokenClassification", TEXTS[:2]


KINDS = [multi_label, choice, tagging]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A Hugging Face folder with a tiny encoder that knows the words of the texts."""
    return write_encoder(tmp_path_factory.mktemp("encoder") / "hf", TEXTS)


def losses(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["loss"] for line in lines if "loss" in (entry := json.loads(line))}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_run_of_each_kind(kind, encoder, tmp_path):
    """The same losses after a resume, scores when asked again, outputs in PyTorch, and answers."""
    (tmp_path / "data").mkdir()
    name, changes, model_class, asked = kind(tmp_path / "data")
    config = ptft_jax.get_config(name)
    config.update_from_flattened_dict(
        {
            "data_dir": str(tmp_path / "data"),
            "batch_size": 8,
            "steps": 6,
            "checkpoint_every": 3,
            "eval_every": 0,
            "log_every": 1,
            "max_seq_length": 32,
            "length_buckets": (16,),
            "optimizer.learning_rate": 1e-3,
            **changes,
        }
    )
    run_dir = tmp_path / "run"
    if kind is tagging:
        config.augment.swap = 0.5
        with pytest.raises(ConfigError, match="stand at words, which would move"):
            ptft_jax.finetune(config, str(encoder), str(run_dir))
        config.augment.update({"swap": 0.0, "token_dropout": 0.3})
    found = ptft_jax.finetune(config, str(encoder), str(run_dir))
    whole = losses(run_dir)
    assert len(set(whole.values())) == 6
    shutil.rmtree(run_dir / "checkpoints" / "6")
    (run_dir / "results.json").unlink()
    again = ptft_jax.finetune(config, str(encoder), str(run_dir))
    assert losses(run_dir) == whole
    assert again == found
    run = ptft_jax.load_run(run_dir)
    scored = run.evaluate()
    assert scored["dev"] == {key: found["dev"][key] for key in scored["dev"]}
    check_scores(ReportPage(run_dir / "report.html"), found)
    exported = run.export(tmp_path / "exported")
    assert exported.model_class == model_class
    assert exported.verification.largest_difference < 1e-4
    answers = run.predict(asked)
    assert len(answers) == len(asked)
    if "max_seq_length" not in changes:  # which a folder does not know
        assert ptft_jax.load_run(tmp_path / "exported").predict(asked) == answers
    if kind is choice:
        with pytest.raises(ConfigError, match="half of a surrogate pair"):
            run.predict([("", "the light", "\ud800")])
    file, output = tmp_path / "data" / "dev.jsonl", tmp_path / "predicted.csv"
    if file.is_file():
        assert (
            main(["predict", f"--run_dir={run_dir}", f"--input={file}", f"--output={output}"]) == 0
        )
        rows = read_table(output).columns
        assert len(rows["prediction"]) == len(TEXTS)
        assert len(set(rows["row"])) == len(TEXTS)
    _check_table(kind, tmp_path)


def _check_table(kind, place):
    """A table of a labelled split can be read alone: what was chosen, and what is right."""
    output = place / "split.jsonl"
    asked = [f"--run_dir={place}/run", "--split=dev"]
    assert main(["predict", *asked, f"--output={output}"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    if kind is multi_label:
        assert [row["label"] for row in rows[:4]] == ["", "a", "b", "a|b"]
    elif kind is choice:
        assert {row["label"] for row in rows} == {0}
        for row in rows:
            assert row["prediction_text"] == row["choices"][row["prediction"]]
        assert main(["predict", *asked, f"--output={place}/split.csv"]) == 0
        columns = read_table(place / "split.csv").columns
        assert columns["prediction_text"] == [row["prediction_text"] for row in rows]
    else:
        assert rows[0]["labels"] == ["B-X" if word > "s" else "O" for word in rows[0]["words"]]


@pytest.mark.parametrize("kind", [choice, tagging], ids=lambda kind: kind.__name__)
def test_a_prompt_in_front_of_what_is_no_single_text(kind, encoder, tmp_path):
    """In front of each choice, and unseen by tags; the same packed on a mesh; as in PEFT."""
    (tmp_path / "data").mkdir()
    name, changes, _, asked = kind(tmp_path / "data")
    config = ptft_jax.get_config(name)
    keys = {
        **{"data_dir": str(tmp_path / "data"), "batch_size": 8, "steps": 3, "eval_every": 0},
        **{"log_every": 1, "max_seq_length": 32, "length_buckets": (16,), **changes},
        **{"adapter.name": "prompt", "adapter.num_virtual_tokens": 3, "packing": False},
        "optimizer.learning_rate": 1e-2,
    }
    config.update_from_flattened_dict(keys)
    one = tmp_path / "one"
    found = ptft_jax.finetune(config, str(encoder), str(one))
    config.update_from_flattened_dict({"mesh.fsdp": 2, "mesh.tensor": 2, "packing": True})
    ptft_jax.finetune(config, str(encoder), str(tmp_path / "mesh"))
    assert losses(tmp_path / "mesh") == pytest.approx(losses(one), rel=1e-4)
    run = ptft_jax.load_run(one)
    scored = run.evaluate()["dev"]
    assert scored == pytest.approx({key: found["dev"][key] for key in scored})
    assert len(run.predict(asked)) == len(asked)
    if kind is choice:
        with pytest.raises(
            ConfigError, match="PEFT puts no virtual tokens in front of the texts of a BertForM"
        ):
            run.export(tmp_path / "peft", form="peft")
    else:
        exported = run.export(tmp_path / "peft", form="peft")
        assert exported.verification.largest_difference < 1e-4
