"""Classes with few examples or none: words in a gap, and vectors with a classifier."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from command_line import DROPOUT, losses
from sentence_transformers import SentenceTransformer
from small_encoder import TEXTS, write_encoder

import ptft_jax
from ptft_jax.errors import ConfigError

TEMPLATE = "{text} It was [MASK] ."
WORDS = "dull/slow,bright"
SETFIT = {"few_shot.way": "setfit", "few_shot.template": "", "few_shot.words": ""}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A masked language model, an encoder, texts of two classes, and pairs."""
    place = tmp_path_factory.mktemp("few_shot")
    words = [*TEXTS, "it was dull slow bright . a b n/a"]
    write_encoder(place / "mlm", words, heads=("mlm",))
    write_encoder(place / "encoder", words)
    for name in ("data", "pairs"):
        (place / name).mkdir()
        for split in ("train", "dev"):
            rows = [
                {"text": text, "other": TEXTS[-n], "label": "ab"[n % 2]}
                for n, text in enumerate(TEXTS)
            ]
            (place / name / f"{split}.jsonl").write_text(
                "".join(f"{json.dumps(r)}\n" for r in rows)
            )
    return place


def config_of(place, **changes):
    config = ptft_jax.get_config("finetune/few_shot")
    keys = {
        **{"data_dir": str(place / "data"), "batch_size": 8, "steps": 4, "checkpoint_every": 2},
        **{"eval_every": 0, "log_every": 1, "max_seq_length": 24, "length_buckets": ()},
        **{"examples_per_class": 4, "optimizer.learning_rate": 1e-3, **DROPOUT},
    }
    config.update_from_flattened_dict({**keys, **changes})
    return config


def prompt_of(place, **changes):
    given = {"few_shot.way": "prompt", "few_shot.template": TEMPLATE, "few_shot.words": WORDS}
    return config_of(place, **{**given, **changes})


def their_probabilities(folder, texts, gap=0):
    """Returns those of the two classes that PyTorch's masked language model gives, [N, 2].

    `gap`: which mask is the template's, where a text has one.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    found = []
    for text in texts:
        inputs = tokenizer(TEMPLATE.replace("{text}", text), return_tensors="pt")
        place = int((inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[gap, 0])
        with torch.no_grad():
            words = model(**inputs).logits[0, place].softmax(-1)
        dull, slow, bright = words[tokenizer.convert_tokens_to_ids(["dull", "slow", "bright"])]
        one, other = float(dull + slow) / 2, float(bright)
        found.append([one / (one + other), other / (one + other)])
    return np.array(found)


def of_both(answers):
    return np.array([[one["scores"][name] for name in "ab"] for one in answers])


@pytest.mark.filterwarnings("ignore:.*nothing was learned")
def test_words_in_a_gap_as_pytorch_fills_them_in(place, tmp_path):
    """Trained, resumed, scored again, asked, exported: the same probabilities in PyTorch."""
    run_dir = tmp_path / "run"
    found = ptft_jax.finetune(prompt_of(place), str(place / "mlm"), str(run_dir))
    whole = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "4")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(prompt_of(place), str(place / "mlm"), str(run_dir)) == found
    assert losses(run_dir) == whole
    run = ptft_jax.load_run(run_dir)
    assert run.evaluate()["dev"] == pytest.approx(found["dev"])
    assert run.export(tmp_path / "hf").model_class == "BertForMaskedLM"
    answers = run.predict(TEXTS[:6])
    np.testing.assert_allclose(
        of_both(answers), their_probabilities(tmp_path / "hf", TEXTS[:6]), atol=1e-5
    )
    # Without dropout, packed or not, on a mesh that splits the vocabulary.
    still = {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0}
    alone = prompt_of(place, packing=False, **still)
    ptft_jax.finetune(alone, str(place / "mlm"), str(tmp_path / "alone"))
    mesh = prompt_of(place, **still, **{"mesh.tensor": 2, "mesh.fsdp": 2})
    ptft_jax.finetune(mesh, str(place / "mlm"), str(tmp_path / "mesh"))
    assert losses(tmp_path / "mesh") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


def test_without_an_example_and_calibrated(place, tmp_path):
    """No update is made; what texts that say nothing get is taken off, also of predictions."""
    nothing = {"epochs": 0.0, "steps": 0}
    plain = prompt_of(place, **nothing)
    found = ptft_jax.finetune(plain, str(place / "mlm"), str(tmp_path / "plain"))
    assert found["dev"].keys() == {"loss", "accuracy"}
    expected = their_probabilities(place / "mlm", TEXTS[:6])
    run = ptft_jax.load_run(tmp_path / "plain")
    assert run.step == 0
    np.testing.assert_allclose(of_both(run.predict(TEXTS[:6])), expected, atol=1e-5)
    calibrated = prompt_of(place, **nothing, **{"few_shot.calibrate": True})
    ptft_jax.finetune(calibrated, str(place / "mlm"), str(tmp_path / "calibrated"))
    prior = their_probabilities(place / "mlm", ["N/A", "", "[MASK]"], gap=-1).mean(axis=0)
    odds = of_both(ptft_jax.load_run(tmp_path / "calibrated").predict(TEXTS[:6]))
    wanted = expected / prior
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(odds, wanted, atol=1e-5)


def test_pairs_and_soft_tokens(place, tmp_path):
    """Both texts in a template, and trained virtual tokens in front of it, packed or not."""
    changes = {
        "few_shot.template": "{text_a} ? [MASK] , {text_b}",
        **{"table.text_pair_column": "other", "data_dir": str(place / "pairs")},
        **{"adapter.name": "prompt", "adapter.num_virtual_tokens": 3, "max_seq_length": 32},
        **{"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0},
    }
    for name, packing in (("packed", True), ("alone", False)):
        config = prompt_of(place, **changes, packing=packing)
        ptft_jax.finetune(config, str(place / "mlm"), str(tmp_path / name))
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    run = ptft_jax.load_run(tmp_path / "packed")
    assert run.predict([(TEXTS[0], TEXTS[1])])[0]["label"] in "ab"
    with pytest.raises(ConfigError, match="no virtual tokens in front of the texts of a BertForMa"):
        run.export(tmp_path / "peft", form="peft")


def test_vectors_with_a_classifier(place, tmp_path):
    """SetFit's way, resumed; exported vectors give the same answers with the classifier."""
    run_dir = tmp_path / "run"
    found = ptft_jax.finetune(config_of(place), str(place / "encoder"), str(run_dir))
    whole = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "4")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config_of(place), str(place / "encoder"), str(run_dir)) == found
    assert losses(run_dir) == whole
    run = ptft_jax.load_run(run_dir)
    assert run.evaluate()["dev"] == pytest.approx(found["dev"])
    answers = run.predict(TEXTS)
    right = [one["label"] == "ab"[n % 2] for n, one in enumerate(answers)]
    assert np.mean(right) == pytest.approx(found["dev"]["accuracy"])
    run.export(tmp_path / "hf")
    vectors = SentenceTransformer(str(tmp_path / "hf")).encode(TEXTS)
    classifier = json.loads((tmp_path / "hf" / "classifier.json").read_text())
    logits = vectors @ np.array(classifier["weights"]).T + classifier["bias"]
    labels = [classifier["labels"][one] for one in logits.argmax(axis=1)]
    assert labels == [one["label"] for one in answers]
    # With other data the classifier is the run's own, and a page about them changes nothing.
    shutil.copytree(place / "data", tmp_path / "data")
    again = run.evaluate(tmp_path / "data", report=run_dir / "report.html")["dev"]
    assert again == pytest.approx(found["dev"])
    assert run.predict(TEXTS) == answers
    early = ptft_jax.load_run(run_dir, "2")
    early.export(tmp_path / "early")
    assert not (tmp_path / "early" / "classifier.json").exists()
    with pytest.raises(ConfigError, match="is of step 4, and this is the checkpoint of step 2"):
        early.predict(TEXTS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"few_shot.template": "{text} It was bright."}, r"0 times \[MASK\]; expected it once"),
        ({"few_shot.template": "It was [MASK]."}, r"has the places none; expected \{text\}"),
        ({"few_shot.template": "{text_a} [MASK]"}, r"has the places \{text_a\}; expected \{text\}"),
        ({"few_shot.words": "dull,unheardof"}, "'unheardof' is no single token of this model"),
        ({"few_shot.words": "dull"}, "words for 1 classes; expected some for each of a, b"),
        ({"few_shot.words": "dull,dull"}, "a word stands twice"),
        ({"few_shot.words": '{"a": "dull"}'}, "expected words for each of a, b"),
        ({"few_shot.words": '{"a": 5, "b": "x"}'}, "expected a word, or a list of words"),
        ({"augment.word_dropout": 0.1}, "or the gap to fill in, stand at words"),
        ({"few_shot.way": ""}, "few_shot.template=.* is for few_shot.way='prompt'"),
        ({"few_shot.pairs": 5}, "few_shot.pairs=5 is for few_shot.way='setfit', not 'prompt'"),
        (
            {**SETFIT, "few_shot.way": "magic"},
            "few_shot.way='magic': expected prompt, setfit, or nothing",
        ),
        ({"max_seq_length": 6}, "the template alone has"),
        ({"examples_per_class": 13}, "the class 'a' has 12 training examples"),
        ({**SETFIT, "class_weights": "balanced"}, "pairs of texts do not use it"),
        ({**SETFIT, "few_shot.pairs": 0}, "few_shot.pairs=0: expected 1 or more"),
        (
            {**SETFIT, "table.text_pair_column": "other"},
            "this is for single texts, and those of text are pairs",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_settings_end_before_anything_is_written(place, changes, expected, tmp_path):
    with pytest.raises(ConfigError, match=expected):
        ptft_jax.finetune(prompt_of(place, **changes), str(place / "mlm"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_prompt_needs_an_mlm_head(place, tmp_path):
    with pytest.raises(ConfigError, match="has no MLM head, which fills in words"):
        ptft_jax.finetune(prompt_of(place), str(place / "encoder"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
