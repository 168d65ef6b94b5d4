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


def their_probabilities(folder, texts):
    """Returns those of the two classes that PyTorch's masked language model gives, [N, 2]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    found = []
    for text in texts:
        inputs = tokenizer(TEMPLATE.replace("{text}", text), return_tensors="pt")
        gap = int((inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0])
        with torch.no_grad():
            words = model(**inputs).logits[0, gap].softmax(-1)
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
    prior = their_probabilities(place / "mlm", ["N/A", "", "[UNK]"])
    answers = ptft_jax.load_run(tmp_path / "calibrated").predict(TEXTS[:6])
    odds = of_both(answers)[:, 1] / of_both(answers)[:, 0]
    plain_odds = expected[:, 1] / expected[:, 0]
    assert len(set(np.round(odds / plain_odds, 4))) == 1
    assert not np.allclose(odds, plain_odds, rtol=1e-3) or np.allclose(
        prior.mean(0), 0.5, atol=1e-3
    )


def test_pairs_and_soft_tokens(place, tmp_path):
    """Both texts in a template, and virtual tokens in front of it that are trained as well."""
    changes = {
        "few_shot.template": "{text_a} ? [MASK] , {text_b}",
        **{"table.text_pair_column": "other", "data_dir": str(place / "pairs")},
        **{"adapter.name": "prompt", "adapter.num_virtual_tokens": 3, "max_seq_length": 32},
    }
    config = prompt_of(place, **changes)
    ptft_jax.finetune(config, str(place / "mlm"), str(tmp_path / "run"))
    answers = ptft_jax.load_run(tmp_path / "run").predict([(TEXTS[0], TEXTS[1])])
    assert answers[0]["label"] in "ab"


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
    with pytest.raises(ConfigError, match="is of step 4, and this is the checkpoint of step 2"):
        ptft_jax.load_run(run_dir, "2").predict(TEXTS)


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
        ({"few_shot.way": "magic"}, "few_shot.way='magic': expected prompt, setfit, or nothing"),
        ({"max_seq_length": 6}, "the template alone has"),
        ({"examples_per_class": 13}, "the class 'a' has 12 training examples"),
        ({"few_shot.way": "setfit", "few_shot.pairs": 0}, "few_shot.pairs=0: expected 1 or more"),
        (
            {"few_shot.way": "setfit", "table.text_pair_column": "other"},
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
