"""The whole path through the command line: prepare, pretrain, fine-tune, score, ask, export."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import (
    DROPOUT,
    finetune_flags,
    losses,
    metrics,
    results,
    run,
    sentences,
    tree,
    write_corpus,
)

from ptft_jax import load_run
from ptft_jax.cli import COMMANDS
from ptft_jax.models.dropout import RANDOMNESS
from ptft_jax.runs.folder import RunFolder

pretrain_flags = partial(command_line.pretrain_flags, **DROPOUT)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder for all tests here."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def corpus(place) -> Path:
    write_corpus(place / "text.txt")
    out_dir = place / "data"
    assert (
        run(
            "prepare",
            "--config=configs/data/text.py",
            f"--config.inputs={place}/*.txt",
            "--config.vocab_size=300",
            "--config.dev_fraction=0.2",
            f"--out_dir={out_dir}",
        )
        == 0
    )
    return out_dir


@pytest.fixture(scope="module")
def pretrained(place, corpus) -> Path:
    """A run of six updates on eight devices."""
    assert run(*pretrain_flags(corpus, place / "pretrained")) == 0
    return place / "pretrained"


@pytest.fixture(scope="module")
def exported(place, pretrained) -> Path:
    assert run("export", f"--run_dir={pretrained}", f"--out_dir={place}/hf") == 0
    return place / "hf"


@pytest.fixture(scope="module")
def imported(place, exported) -> Path:
    assert run("import", f"--hf_dir={exported}", f"--run_dir={place}/imported") == 0
    return place / "imported"


@pytest.fixture(scope="module")
def glue(place) -> Path:
    """A folder in the layout of GLUE with SST-2 (single texts) and MNLI (pairs, two dev files)."""
    folder = place / "glue"
    (folder / "SST-2").mkdir(parents=True)
    for split, count, seed in (("train", 32, 1), ("dev", 13, 2)):
        rows = [f"{text}\t{label}" for text, label in sentences(count, seed)]
        (folder / "SST-2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    (folder / "MNLI").mkdir()
    names = ("contradiction", "entailment", "neutral")
    for split, count, seed in (("train", 24, 3), ("dev_matched", 9, 4), ("dev_mismatched", 9, 5)):
        pairs = zip(sentences(count, seed), sentences(count, seed + 9), strict=True)
        rows = [f"{a}\t{b}\t{names[x + y]}" for (a, x), (b, y) in pairs]
        text = "\n".join(["sentence1\tsentence2\tgold_label", *rows])
        (folder / "MNLI" / f"{split}.tsv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def sst2(place, glue, pretrained) -> Path:
    """SST-2 from the pretraining run."""
    assert run(*finetune_flags("glue.py:sst2", glue, pretrained, place / "sst2")) == 0
    return place / "sst2"


@pytest.fixture(scope="module")
def mnli(place, glue, pretrained) -> Path:
    """MNLI, with an evaluation and a checkpoint after every update."""
    flags = finetune_flags(
        "glue.py:mnli", glue, pretrained, place / "mnli", eval_every=1, checkpoint_every=1
    )
    assert run(*flags) == 0
    return place / "mnli"


def test_a_run_folder_holds_what_others_rely_on(pretrained):
    """The names in a run folder hold from now on, and so do the keys in metrics.jsonl."""
    names = {path.name for path in pretrained.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "tokenizer",
        "results.json",
        "events.jsonl",
        "status",
    }
    assert {path.name for path in (pretrained / "checkpoints").iterdir()} == {"3", "6"}
    assert (pretrained / "tokenizer" / "tokenizer.json").is_file()
    assert {path.name for path in (pretrained / "tensorboard").iterdir()} == {"train", "dev"}
    training = [line for line in metrics(pretrained) if "split" not in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]
    wanted = {"loss", "mlm_accuracy", "nsp_accuracy", "learning_rate", "tokens_per_second"}
    assert wanted | {"data_wait"} <= training[-1].keys()
    assert {"loss", "mlm_accuracy", "nsp_accuracy"} <= results(pretrained)["dev"].keys()
    record = json.loads((pretrained / "config.json").read_text())
    assert record["config"]["model"]["hidden_size"] == 32
    assert record["best"] == ["dev_loss", "min"]


def test_evaluate_gives_the_results_of_the_run_again(pretrained, sst2, mnli, capsys):
    """The checkpoint, the data and the settings of a run lead to its very scores."""
    for folder in (pretrained, sst2, mnli):
        before = tree(folder)
        assert run("evaluate", f"--run_dir={folder}") == 0
        assert tree(folder) == before
        stored = results(folder)
        shown = capsys.readouterr().out
        for split in stored.keys() - {"step"}:
            for name, value in stored[split].items():
                row = next(line for line in shown.splitlines() if split in line and name in line)
                assert row.split()[-2:] == [f"{value:.4f}"] * 2, row


def test_evaluate_runs_where_the_mesh_of_the_run_does_not_fit(mnli, tmp_path):
    """A run of many devices is scored on a laptop; its mesh is a matter of training only."""
    shutil.copytree(mnli, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    record["config"]["mesh"]["data"] = 64
    file.write_text(json.dumps(record))
    with pytest.warns(UserWarning, match=r"evaluating on one device, .*mesh.data=64"):
        found = load_run(tmp_path / "run").evaluate()
    for split in ("dev_matched", "dev_mismatched"):
        assert found[split] == pytest.approx(results(mnli)[split], rel=1e-5)


def test_what_a_command_says_comes_next_can_be_pasted(glue, pretrained, mnli, sst2, capsys):
    """A run of pairs is asked about a pair, and what was evaluated is what is exported."""
    every = {"eval_every": 1, "checkpoint_every": 1}
    for task, folder, changes in (("mnli", mnli, every), ("sst2", sst2, {})):
        assert run(*finetune_flags(f"glue.py:{task}", glue, pretrained, folder, **changes)) == 0
        said = capsys.readouterr().out
        (line,) = (line for line in said.splitlines() if "ptft predict" in line)
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
        ).stdout.split("\0")[1:-1]
        assert run(*words) == 0
        assert "scores" in capsys.readouterr().out
    assert run("evaluate", f"--run_dir={mnli}", "--checkpoint=best") == 0
    assert f"ptft export --run_dir={mnli} --checkpoint=best --out_dir=" in capsys.readouterr().out


def test_a_run_of_a_gpu_is_read_on_a_cpu(pretrained, tmp_path, capsys):
    """What computed attention in training is a matter of that machine, as its mesh is."""
    shutil.copytree(pretrained, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    record["model"] |= {"attention": "kernel", "fused": "kernel"}
    file.write_text(json.dumps(record))
    assert run("predict", f"--run_dir={tmp_path}/run", "--json", "a [MASK]") == 0
    assert json.loads(capsys.readouterr().out)["masks"]


def test_the_same_command_again_changes_nothing(corpus, pretrained, glue, sst2, capsys):
    """A finished run that is started again is left as it is, to the byte."""
    for folder, flags in (
        (pretrained, pretrain_flags(corpus, pretrained)),
        # --init_from is not needed again: the run has its own checkpoint.
        (
            sst2,
            [*finetune_flags("glue.py:sst2", glue, pretrained, sst2)[:-2], f"--run_dir={sst2}"],
        ),
    ):
        before = tree(folder)
        assert run(*flags) == 0
        assert "nothing to do" in capsys.readouterr().out
        assert tree(folder) == before


def test_a_changed_config_is_refused_with_the_difference(corpus, pretrained, capsys):
    """Resuming under other settings has to be meant; the message says which differ."""
    before = tree(pretrained)
    flags = pretrain_flags(corpus, pretrained, **{"optimizer.learning_rate": 0.5})
    assert run(*flags) == 2
    assert tree(pretrained) == before
    message = capsys.readouterr().err
    assert "config.optimizer.learning_rate: 0.001 in the run, 0.5 now" in message
    assert "--config_change=allow" in message
    assert "batch_size" not in message


def test_a_run_goes_on_with_another_mesh(corpus, pretrained, place, capsys):
    """A run goes on with another mesh where it stopped, and says so.

    What decides only how it is computed may change; the rest only when that is allowed, and fewer
    steps than were made never.
    """
    folder = place / "other_mesh"
    shutil.copytree(pretrained, folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    moved = shutil.copytree(corpus, place / "copied")
    changes = {"mesh.data": 8, "mesh.fsdp": 1, "workers": 2, "log_every": 2}
    changes |= {"model.remat": True, "model.unroll": 1}
    rate = {"optimizer.learning_rate": 1e-3}
    assert run(*pretrain_flags(moved, folder, **changes, **rate, steps=7)) == 2
    said = capsys.readouterr().err
    assert "config.steps: 6 in the run, 7 now" in said
    assert "config.mesh" not in said
    assert run(*pretrain_flags(moved, folder, **changes)) == 0
    said = capsys.readouterr().out
    assert "resuming at step 3 of 6" in said
    for change in ("mesh.data: 1 in the run, 8 now", "mesh.fsdp: 8 in the run, 1 now"):
        assert f"changed since the run was started: config.{change}" in said
    made = {step: loss for step, loss in losses(pretrained).items() if step in (1, 2, 3, 4, 6)}
    assert losses(folder) == pytest.approx(made, rel=1e-4)
    # What only decides how it is computed says nothing of the model.
    assert RunFolder(folder).changes() == []
    before = tree(folder)
    assert run(*pretrain_flags(corpus, folder, steps=3), "--config_change=allow") == 2
    assert "has made 6 updates already" in capsys.readouterr().err
    assert tree(folder) == before


def with_dropout_of(folder: Path, version: str | None, **model: float) -> None:
    """Rewrites config.json as another version of the package would have, and with other rates."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    assert content.pop("randomness") == RANDOMNESS
    content |= {} if version is None else {"randomness": version}
    for keys in (content["model"], content["config"]["model"]):
        keys |= model
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("version", [None, "threefry-0"])
def test_a_run_of_another_dropout_stops(corpus, pretrained, tmp_path, version, capsys):
    """Its losses would go on without a mark, from masks that no version could draw as a whole.

    Reading it needs no dropout.
    """
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    with_dropout_of(folder, version)
    before = tree(folder)
    assert run(*pretrain_flags(corpus, folder), "--config_change=allow") == 2
    said = capsys.readouterr().err
    assert f"dropout of version {version or '(none recorded)'}" in said
    assert f"has {RANDOMNESS}: " in said
    assert f"--init_from={folder}" in said
    assert run("evaluate", f"--run_dir={folder}") == 0
    assert run("export", f"--run_dir={folder}", f"--out_dir={tmp_path}/hf") == 0
    assert tree(folder) == before
    new = pretrain_flags(corpus, tmp_path / "new", steps=1)
    assert run(*new, f"--init_from={folder}") == 0


def test_a_run_without_dropout_goes_on_in_any_version(corpus, pretrained, tmp_path):
    """Nothing that it computes depends on masks."""
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with_dropout_of(folder, None, **rates)
    flags = pretrain_flags(corpus, folder, **{f"model.{name}": 0.0 for name in rates})
    assert run(*flags) == 0
    assert sorted(losses(folder)) == [1, 2, 3, 4, 5, 6]


def test_a_run_without_a_checkpoint_begins_with_the_dropout_of_today(corpus, pretrained, tmp_path):
    """There is nothing yet that other masks could change."""
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    shutil.rmtree(folder / "checkpoints")
    with_dropout_of(folder, None)
    assert run(*pretrain_flags(corpus, folder)) == 0
    assert losses(folder) == losses(pretrained)
    assert json.loads((folder / "config.json").read_text())["randomness"] == RANDOMNESS


def test_changed_data_is_refused(place, corpus, pretrained, capsys):
    """A corpus prepared anew under the same path would silently make another run of it."""
    moved = place / "moved"
    corpus.rename(moved)
    try:
        write_corpus(place / "text2.txt", seed=1)
        inputs = f"--config.inputs={place}/text2.txt"
        flags = ["--config.vocab_size=300", "--config.dev_fraction=0.2", f"--out_dir={corpus}"]
        assert run("prepare", "--config=configs/data/text.py", inputs, *flags) == 0
        capsys.readouterr()
        assert run(*pretrain_flags(corpus, pretrained)) == 2
        assert "data.corpus" in capsys.readouterr().err
        assert run("evaluate", f"--run_dir={pretrained}") == 2
        assert "changed: corpus" in capsys.readouterr().err
    finally:
        corpus.rename(place / "other")
        moved.rename(corpus)
        (place / "text2.txt").unlink()


def test_fill_mask_prints_json(pretrained, capsys):
    """One JSON object per text, one list of candidates per mask, by falling score."""
    texts = ["The [MASK] is bright.", "The river [MASK] stone is [MASK]."]
    assert run("predict", f"--run_dir={pretrained}", "--json", "--top=3", *texts) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in found] == texts
    assert [len(line["masks"]) for line in found] == [1, 2]
    for candidates in found[0]["masks"] + found[1]["masks"]:
        scores = [candidate["score"] for candidate in candidates]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)


def test_labels_come_by_name_and_do_not_depend_on_the_batch(sst2, tmp_path, capsys):
    """A file, standard arguments and a single text give the same scores for the same text."""
    texts = [text for text, _ in sentences(5, seed=7)]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    assert run("predict", f"--run_dir={sst2}", "--json", f"--input={tmp_path}/in.txt") == 0
    from_file = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert run("predict", f"--run_dir={sst2}", "--json", texts[3]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["label"] == from_file[3]["label"]
    assert alone["scores"] == pytest.approx(from_file[3]["scores"], rel=1e-5)
    assert set(alone["scores"]) == {"negative", "positive"}


def test_a_task_of_pairs_takes_pairs_only(mnli, sst2, capsys):
    """A single text for a model of pairs was scored silently as a pair with an empty second text.

    A run of single texts reads a tab as the white space that it was in training.
    """
    assert run("predict", f"--run_dir={mnli}", "one text only") == 2
    assert "expected a pair of texts with one tab" in capsys.readouterr().err
    assert run("predict", f"--run_dir={mnli}", "--json", "the river\tthe stone") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert set(scores) == {"entailment", "neutral", "contradiction"}
    assert run("predict", f"--run_dir={sst2}", "--json", "the river\tis", "the river is") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["scores"] == second["scores"]


def test_texts_that_are_cut_are_said_so(sst2, pretrained, capsys):
    """What the model does not see is said; a mask that it does not see is an error."""
    assert run("predict", f"--run_dir={sst2}", "--json", "river " * 40) == 0
    assert "1 of 1 texts are longer than the 16 tokens" in capsys.readouterr().err
    assert run("predict", f"--run_dir={pretrained}", "[MASK] " + "river " * 40 + "[MASK]") == 2
    assert "beyond the 32 tokens" in capsys.readouterr().err


def test_mnli_scores_both_dev_sets_and_the_first_decides(mnli):
    """results.json has both; the best checkpoint is chosen by the matched accuracy."""
    stored = results(mnli)
    assert {"dev_matched", "dev_mismatched", "step"} == stored.keys()
    assert set(stored["dev_matched"]) == {"loss", "accuracy"}
    record = RunFolder(mnli).record()
    assert record.best == ("dev_matched_accuracy", "max")
    with RunFolder(mnli).checkpoints(record) as checkpoints:
        best = checkpoints.best_step()
    scores = {m["step"]: m["accuracy"] for m in metrics(mnli) if m.get("split") == "dev_matched"}
    assert best == max(scores, key=lambda step: (scores[step], -step))
    assert run("evaluate", f"--run_dir={mnli}", "--checkpoint=best") == 0


def test_three_sources_of_one_model_fine_tune_alike(
    place, glue, pretrained, exported, imported, sst2, capsys
):
    """A run, its Hugging Face folder and the run imported from that are the same start."""
    for name, source in (("from_hf", exported), ("from_imported", imported)):
        capsys.readouterr()
        assert run(*finetune_flags("glue.py:sst2", glue, source, place / name)) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "new, from the seed: classification" in said
        assert "not used: mlm, nsp" in said
        assert losses(place / name) == losses(sst2)
        assert results(place / name) == results(sst2)


def test_exports_load_in_pytorch_and_name_no_path(place, exported, pretrained, sst2, capfd):
    """AutoModel classes load every export whole; the card names the base model and no path."""
    import transformers

    text = (exported / "README.md").read_text()
    assert str(place) not in text
    for architecture in ("BertForMaskedLM", "BertModel", "BertForNextSentencePrediction"):
        out_dir = place / architecture
        flags = [f"--out_dir={out_dir}", f"--architecture={architecture}"]
        assert run("export", f"--run_dir={pretrained}", *flags) == 0
    out_dir = place / "hf_sst2"
    assert run("export", f"--run_dir={sst2}", f"--out_dir={out_dir}") == 0
    shown = capfd.readouterr()
    assert "largest difference of outputs" in shown.out
    assert shown.err == "", "transformers drew its progress bar over the command's screen"
    card = (out_dir / "README.md").read_text()
    assert "Its weights started from `pretrained`." in card
    assert "base_model:" not in card
    assert "* 1: `positive`" in card
    assert "name: GLUE sst2" in card
    assert str(place) not in card
    for folder, auto in (
        (exported, transformers.AutoModelForPreTraining),
        (place / "BertForMaskedLM", transformers.AutoModelForMaskedLM),
        (place / "BertModel", transformers.AutoModel),
        (out_dir, transformers.AutoModelForSequenceClassification),
    ):
        model, info = auto.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys")), folder
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert tokenizer("the river").input_ids
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_an_encoder_without_heads_goes_in_and_out(place, pretrained, exported, corpus, capsys):
    """BertModel imports and exports as such; pretraining from it says which heads are new."""
    from safetensors.numpy import load_file

    flags = [f"--out_dir={place}/encoder", "--architecture=BertModel"]
    assert run("export", f"--run_dir={pretrained}", *flags) == 0
    assert run("import", f"--hf_dir={place}/encoder", f"--run_dir={place}/encoder_run") == 0
    assert RunFolder(place / "encoder_run").record().encoder_config.heads == ("pooler",)
    again = place / "encoder_again"
    assert run("export", f"--run_dir={place}/encoder_run", f"--out_dir={again}") == 0
    first, second = (load_file(f / "model.safetensors") for f in (place / "encoder", again))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert json.loads((again / "config.json").read_text())["architectures"] == ["BertModel"]
    capsys.readouterr()
    assert run("predict", f"--run_dir={place}/encoder_run", "a text") == 2
    assert "fine-tune it first" in capsys.readouterr().err
    assert run("evaluate", f"--run_dir={place}/encoder_run") == 2
    start = pretrain_flags(corpus, place / "from_encoder")
    assert run(*start, f"--init_from={place}/encoder_run") == 0
    assert "new, from the seed: mlm, nsp" in capsys.readouterr().out


def test_an_imported_run_predicts_to_the_models_full_length(imported, capsys):
    """An import has no max_seq_length of its own: all positions of the model are used."""
    text = "[MASK] " + "river " * 40 + "[MASK]"
    assert run("predict", f"--run_dir={imported}", "--json", text) == 0
    assert len(json.loads(capsys.readouterr().out)["masks"]) == 2
    assert run("predict", f"--run_dir={imported}", "[MASK]\tb", "[MASK] alone") == 2
    assert "0 tabs" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_of_ones_own(place, pretrained, suffix, capsys):
    """Labels are found in the train file, whatever its format, and come back by name."""
    folder = place / f"table_{suffix}"
    folder.mkdir()
    for split, count, seed in (("train", 16, 1), ("dev", 8, 2)):
        rows = [(text, ("bad", "good")[label]) for text, label in sentences(count, seed)]
        if suffix == "jsonl":
            lines = [json.dumps({"review": a, "verdict": b}) for a, b in rows]
        else:
            separator = {"csv": ",", "tsv": "\t"}[suffix]
            lines = [separator.join(row) for row in [("review", "verdict"), *rows]]
        (folder / f"{split}.{suffix}").write_text("\n".join(lines) + "\n")
    columns = {"table.text_column": "review", "table.label_column": "verdict"}
    run_dir = place / f"run_{suffix}"
    assert run(*finetune_flags("text.py", folder, pretrained, run_dir, **columns)) == 0
    assert RunFolder(run_dir).record().labels == ("bad", "good")
    assert set(results(run_dir)["dev"]) == {"loss", "accuracy"}
    # The three formats hold the same rows, so they make the same run.
    assert losses(run_dir) == losses(place / "run_csv")
    assert run("predict", f"--run_dir={run_dir}", "--json", "the road is happy") == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]) == {"bad", "good"}


def test_a_regression_on_pairs(place, pretrained, capsys):
    """Scores instead of labels: one output, correlations, and a card without undefined numbers."""
    folder = place / "scores"
    folder.mkdir()
    for split, count, seed in (("train", 16, 1), ("dev", 8, 2)):
        rows = [
            {"text": a, "other": b, "label": 1.5 * (x == y)}
            for (a, x), (b, y) in zip(sentences(count, seed), sentences(count, 9), strict=True)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = {"table.regression": "true", "table.text_pair_column": "other"}
    run_dir = place / "regression"
    assert run(*finetune_flags("text.py", folder, pretrained, run_dir, **keys)) == 0
    assert RunFolder(run_dir).record().best == ("dev_pearson", "max")
    assert {"loss", "pearson", "spearman"} == results(run_dir)["dev"].keys()
    assert run("evaluate", f"--run_dir={run_dir}") == 0
    capsys.readouterr()
    assert run("predict", f"--run_dir={run_dir}", "--json", "the road\tthe field") == 0
    assert isinstance(json.loads(capsys.readouterr().out)["score"], float)
    # A constant prediction has no correlation: results.json says null, the card leaves it out.
    stored = results(run_dir)
    stored["dev"]["pearson"] = None
    (run_dir / "results.json").write_text(json.dumps(stored))
    assert run("export", f"--run_dir={run_dir}", f"--out_dir={place}/hf_regression") == 0
    assert "pearson" not in (place / "hf_regression" / "README.md").read_text()
    config = json.loads((place / "hf_regression" / "config.json").read_text())
    assert config["problem_type"] == "regression"


def test_a_run_can_start_from_a_run_that_is_gone_since(place, glue, pretrained, exported):
    """The run's own checkpoint comes first: what it started from is not needed to go on."""
    source, folder = place / "short_lived", place / "from_short_lived"
    os.rename(exported, source)
    try:
        assert run(*finetune_flags("glue.py:sst2", glue, source, folder, steps=1)) == 0
    finally:
        os.rename(source, exported)
    changed = {"steps": 2, "optimizer.learning_rate": 1e-3}
    more = finetune_flags("glue.py:sst2", glue, source, folder, **changed)
    assert run(*more, "--config_change=allow") == 0
    assert sorted(losses(folder)) == [1, 2]
    # Which rate was in force until when is not lost, and whoever gets the model reads it.
    (kept,) = RunFolder(folder).changes()
    assert kept["step"] == 1
    assert "config.optimizer.learning_rate: 2e-05 in the run, 0.001 now" in kept["changes"]
    assert run("export", f"--run_dir={folder}", f"--out_dir={place}/hf_changed") == 0
    card = (place / "hf_changed" / "README.md").read_text()
    assert "after step 1: optimizer.learning_rate: 2e-05 → 0.001" in card


def test_fine_tuning_that_diverges(place, glue, pretrained, capsys):
    """Outputs that are not finite are one error; what was saved before stays, and can be looked at.

    It was a traceback; the step itself says so after ten updates in a row only.
    """
    folder = place / "diverged"
    changes = {"checkpoint_every": 2, "eval_every": 3, "optimizer.learning_rate": 1e30}
    flags = finetune_flags("glue.py:sst2", glue, pretrained, folder, **changes)
    assert run(*flags) == 65
    said = capsys.readouterr().err
    assert said.count("ptft: error: ") == 1
    assert "Traceback" not in said
    assert "after step 3: split dev: the model's outputs in 13 of 13 rows are not finite" in said
    for way in ("ptft ckpt rewind", "optimizer.learning_rate", "model.dtype"):
        assert way in said
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"2"}
    assert not (folder / "results.json").exists()
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3]
    before = tree(folder)
    for command in (["ckpt", "ls"], ["ckpt", "verify"], ["status"]):
        assert run(*command, f"--run_dir={folder}") == 0
    assert "(65)" in capsys.readouterr().out
    assert run("evaluate", f"--run_dir={folder}") == 65
    assert "split dev: the model's outputs in 13 of 13 rows" in capsys.readouterr().err
    assert tree(folder) == before


def test_pretraining_that_diverges(place, corpus, capsys):
    """A dev loss of NaN after the last update, too few for the step to say it, ended with 0."""
    folder = place / "diverged_pretraining"
    changes = {"checkpoint_every": 0, "eval_every": 0, "optimizer.learning_rate": 1e30}
    assert run(*pretrain_flags(corpus, folder, **changes)) == 65
    assert "after step 6: split dev: the loss is not finite" in capsys.readouterr().err
    assert not (folder / "results.json").exists()
    assert not (folder / "checkpoints").exists()


def test_layouts_give_the_same_losses(place, corpus, pretrained):
    """Eight devices by rows and by parameters: one loss curve, dropout on."""
    folder = place / "by_rows"
    assert run(*pretrain_flags(corpus, folder, **{"mesh.data": 8, "mesh.fsdp": 1})) == 0
    ours, theirs = losses(folder), losses(pretrained)
    for step in (1, 2, 3):
        assert ours[step] == pytest.approx(theirs[step], rel=1e-5)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    """Within 100 columns: its flags, and the keys of its config with their values and meaning."""
    assert run(*command.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"ptft {command}")
    assert max(map(len, shown.splitlines())) <= 100
    if command in ("pretrain", "finetune"):
        rows = [line.split(maxsplit=1) for line in shown.splitlines()]
        assert ["--config.optimizer.name=adamw", "adamw or lamb"] in rows
        # What few need comes last.
        assert shown.index("--run_dir") < shown.index("--coordinator_address")
    if command == "prepare":
        assert "--config.vocab_size=30522" in shown
    assert "=None" not in shown.partition("Keys of the config")[0]
    assert "['" not in shown


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_help_fills_the_window(columns):
    """Lines of 100 columns were broken by a terminal of 80 wherever they met its edge."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-m", "ptft_jax", "pretrain", "--help"]
    with subprocess.Popen(command, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        said = b""
        while process.poll() is None or b"max_skipped_in_row" not in said:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # how a terminal ends
                break
    lines = said.decode().splitlines()
    os.close(ours)
    assert process.returncode == 0
    assert lines[0].startswith("ptft pretrain")
    assert min(columns, 100) - 8 < max(map(len, lines)) <= min(columns, 100)


def test_help_of_a_key(capsys):
    """In each command that has it, with its default; a typing error gets the nearest, not all."""
    for name in ("batch_size", "--config.batch_size=8"):
        assert run("help", name) == 0
        shown = capsys.readouterr().out
        assert "ptft pretrain --config.batch_size=256  sequences per update" in shown
        assert "ptft finetune --config.batch_size=32   examples per update" in shown
    assert run("help", "data", "inspect") == 0
    assert capsys.readouterr().out.startswith("ptft data inspect")
    assert run("finetune", "--help", "--config=pretrain/bert_tiny") == 2
    assert "is a config of `ptft pretrain`" in capsys.readouterr().err
    assert run("help", "learning_rate") == run("help", "optimizer") == 0
    assert capsys.readouterr().out.count("--config.optimizer.learning_rate=") == 4
    assert run("finetune", "--config=finetune/text", "--config.optimizer.lr=1") == 2
    assert "the nearest key is 'optimizer.learning_rate'" in capsys.readouterr().err
    assert run("launch", "foo") == 2
    assert "expected launch local, launch slurm" in capsys.readouterr().err
    assert run("help", "optimizer.learning_rat") == 2
    assert "the nearest is optimizer.learning_rate." in capsys.readouterr().err
    assert run("help", "zzz") == 2
    assert len(capsys.readouterr().err) < 120


def test_help_shows_the_values_of_the_config_file(capsys):
    """A size's own values, not the defaults of the command."""
    assert run("pretrain", "--config=configs/pretrain/bert_tiny.py", "--help") == 0
    assert "--config.model.hidden_size=128" in capsys.readouterr().out


def test_python_m_is_the_console_script(monkeypatch, capsys):
    """`python -m ptft_jax` and `ptft` are one program."""
    monkeypatch.setattr(sys, "argv", ["ptft_jax", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("ptft_jax", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("ptft_jax ")


def test_print_config_shows_the_resolved_config_and_stops(tmp_path, capsys):
    """What is printed are flags: pasted, they give the same config; nothing else happens."""
    words = ["pretrain", "--config=configs/pretrain/bert_tiny.py", f"--run_dir={tmp_path}/run"]
    assert run(*words, "--config.batch_size=7", "--print_config") == 0
    printed = capsys.readouterr().out.splitlines()
    assert "--config.batch_size=7" in printed
    assert "--config.model.num_hidden_layers=2" in printed
    assert run(*words, "--config.batch_sise=7", "--print_config") == 2
    assert not (tmp_path / "run").exists()
