"""A run on inputs without pairs: MLM alone, a model without pooler, and every command after it."""

from pathlib import Path

import pytest
import transformers
from command_line import (
    finetune_flags,
    metrics,
    prepare_corpus,
    pretrain_flags,
    results,
    run,
    sentences,
)

from ptft_jax.runs.folder import open_run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus and a packed run on full sentences with spans masked."""
    place = tmp_path_factory.mktemp("mlm")
    prepare_corpus(place)
    settings = {
        "input_format": "full_sentences",
        "masking": "span",
        "packing": "true",
        "max_seq_length": 48,
    }
    assert run(*pretrain_flags(place / "data", place / "run", **settings)) == 0
    return place


def test_there_is_no_next_sentence(place):
    """Neither in the loss nor in the model: nothing untrained may be exported as if it were."""
    training = [line for line in metrics(place / "run") if "split" not in line]
    assert all(line["loss"] == line["mlm_loss"] for line in training)
    assert not any(name.startswith("nsp") for line in training for name in line)
    opened = open_run(place / "run")
    assert opened.model_config.heads == ("mlm",)
    assert set(opened.params["heads"]) == {"mlm"}
    assert "pooler" not in opened.params["encoder"]


def test_evaluate_and_predict_work(place, capsys):
    """Both rebuild the run from its folder."""
    assert run("evaluate", f"--run_dir={place}/run") == 0
    assert f"{results(place / 'run')['dev']['mlm_loss']:.4f}" in capsys.readouterr().out
    assert run("predict", f"--run_dir={place}/run", "The [MASK] is bright.") == 0
    assert "[MASK]" in capsys.readouterr().out


def test_it_is_exported_as_a_masked_language_model(place, capsys):
    """PyTorch users get the class whose every weight was trained."""
    assert run("export", f"--run_dir={place}/run", f"--out_dir={place}/hf") == 0
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        place / "hf", output_loading_info=True
    )
    assert type(model).__name__ == "BertForMaskedLM"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_fine_tuning_starts_from_it(place, capsys):
    """The pooler is new then, and the screen says so."""
    (place / "table").mkdir()
    for split, count, seed in (("train", 16, 1), ("dev", 8, 2)):
        rows = [f"{text}\t{label}" for text, label in sentences(count, seed)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    flags = finetune_flags("text.py", place / "table", place / "run", place / "tuned")
    assert run(*flags) == 0
    said = capsys.readouterr().out
    assert "pooler" in said
    assert "new" in said
