"""Adapters train as those of Hugging Face's PEFT do, and folders of PEFT's are read and written."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from hf_reference import SMALL, random_batch, tensors_of, torch_inputs
from small_encoder import write_encoder

from ptft_jax.convert.adapters.names import FORMS
from ptft_jax.convert.bert import from_hf, to_hf
from ptft_jax.convert.folder import read_hf_folder
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.adapters.folding import folded
from ptft_jax.models.adapters.prompt import encoded
from ptft_jax.models.build import build_model
from ptft_jax.models.config import AdapterConfig, EncoderConfig
from ptft_jax.models.parts import named
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.totals import loss_of
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.updates.rules import Rates, rules_of

UPDATES = 50
# What PEFT is told, what we are, and the key of each map's own tensors.
WAYS = {
    "lora": (peft.LoraConfig, {"r": 4, "lora_alpha": 8}, {"rank": 4, "alpha": 8.0}),
    "rslora": (
        peft.LoraConfig,
        {"r": 4, "lora_alpha": 8, "use_rslora": True},
        {"name": "lora", "rank": 4, "alpha": 8.0, "rank_stabilized": True},
    ),
    "dora": (
        peft.LoraConfig,
        {"r": 4, "lora_alpha": 8, "use_dora": True},
        {"rank": 4, "alpha": 8.0},
    ),
    "adalora": (
        peft.AdaLoraConfig,
        {
            **{"init_r": 6, "target_r": 4, "lora_alpha": 8, "total_step": UPDATES},
            **{"tinit": 5, "tfinal": 15, "orth_reg_weight": 0.3},
        },
        {
            **{"rank": 4, "initial_rank": 6, "alpha": 8.0, "orthogonal_weight": 0.3},
            **{"warmup_ratio": 0.1, "final_ratio": 0.3},
        },
    ),
    "prefix": (
        peft.PrefixTuningConfig,
        {"num_virtual_tokens": 4},
        {"num_virtual_tokens": 4, "targets": ()},
    ),
    "prompt": (
        peft.PromptTuningConfig,
        {"num_virtual_tokens": 4},
        {"num_virtual_tokens": 4, "targets": ()},
    ),
    "p_tuning": (
        peft.PromptEncoderConfig,
        {"num_virtual_tokens": 4, "encoder_hidden_size": SMALL["hidden_size"]},
        {"num_virtual_tokens": 4, "targets": ()},
    ),
    "ia3": (peft.IA3Config, {"feedforward_modules": r".*\.output\.dense"}, {}),
}
# They act on no linear map.
VIRTUAL = ("prefix", "prompt", "p_tuning")
HEADS = ("pooler", "classification")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of PyTorch's with wide random weights, words that a tokenizer has, and a pooler."""
    folder = tmp_path_factory.mktemp("base") / "hf"
    write_encoder(folder, ["the light is broken", "the river is lovely"])
    config = transformers.BertConfig.from_pretrained(folder, **{**SMALL, "num_hidden_layers": 2})
    torch.manual_seed(0)
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def wrapped(base, way):
    """Returns a classifier of PyTorch's with an adapter, of values that change what it computes."""
    make, settings, _ = WAYS[way]
    torch.manual_seed(1)
    model = transformers.BertForSequenceClassification.from_pretrained(base, num_labels=3)
    layers = r".*\.layer\.\d+\.(attention\.(self\.(query|key|value)|output\.dense)|output\.dense)"
    maps = {} if way in VIRTUAL else {"target_modules": layers}
    model = peft.get_peft_model(model, make(task_type=peft.TaskType.SEQ_CLS, **maps, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_B.default.weight", "lora_E", "ia3_l")):
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.train()


def ours(model, way):
    """Returns our config and parameters of a model that PEFT has wrapped."""
    targets = ("attention/query", "attention/key", "attention/value", "attention/output")
    adapter = AdapterConfig(
        **{"name": way, "targets": (*targets, "feed_forward/output"), **WAYS[way][2]}
    )
    config = EncoderConfig.from_hf(model.config.to_dict(), heads=HEADS, adapter=adapter)
    spelled, maps = {}, {}
    for name, tensor in tensors_of(model).items():
        if "original_module" in name or "ranknum" in name or name == "word_embeddings.weight":
            continue
        if name == "prompt_encoder.default.embedding.weight":
            sizes = {"num_layers": config.num_hidden_layers}
            parts = FORMS[way].read({"prompt_embeddings": tensor}, sizes, Path("file"))
            spelled |= {name.removeprefix("base_model."): part for name, part in parts.items()}
            continue
        if name.startswith("prompt_encoder.default.mlp_head."):
            number, kind = name.split(".")[-2:]
            own = maps.setdefault({"0": "first", "2": "second", "4": "third"}[number], {})
            own["kernel" if kind == "weight" else "bias"] = tensor.T
            continue
        name = name.removeprefix("base_model.").removeprefix("model.").replace(".base_layer", "")
        name = name.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector")
        spelled[name.replace(".default", "").replace(".modules_to_save", "")] = tensor
    params = from_hf(spelled, config)
    if maps:
        params["encoder"]["embeddings"]["adapter"] |= maps
    return config, params


@pytest.mark.parametrize("way", WAYS)
def test_fifty_updates_are_those_of_peft(base, tmp_path, way):
    """Losses, and afterwards the weights with the adapter folded in; and its folder is read."""
    model = wrapped(base, way)
    config, params = ours(model, way)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    whole = ("bias", "magnitude", "ia3_l")
    decayed = [p for name, p in trained if not any(one in name for one in whole)]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.1},
            {"params": [p for _, p in trained if all(p is not q for q in decayed)]},
        ],
        lr=1e-3,
        eps=1e-6,
        weight_decay=0.0,
    )
    build = build_model(config)
    rates = Rates(build, rules_of("head", 1.0, (), config.num_hidden_layers))
    settings = OptimizerConfig(learning_rate=1e-3, weight_decay=0.1)
    transform, schedule = make_optimizer(
        settings, ScheduleConfig("constant"), UPDATES, rates.parts.axes(), adapter=config.adapter
    )
    given = jax.tree.map(jnp.asarray, rates.parts.trained(params))
    frozen = jax.tree.map(jnp.asarray, rates.parts.frozen(params))
    state = init_state(build, transform, 0, given, rates.parts)
    step = make_train_step(
        build, ClassificationObjective(), transform, schedule, seed=0, parts=rates.parts
    )
    for update in range(UPDATES):
        batch = random_batch(update, vocab_size=config.vocab_size)
        labels = np.random.default_rng(update).integers(0, 3, 5)
        outputs = model(**torch_inputs(batch), labels=torch.tensor(labels))
        outputs.loss.backward()
        # AdaLoRA adds to the loss what keeps its matrices orthogonal.
        theirs = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor(labels))
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
        optimizer.step()
        if way == "adalora":
            model.base_model.update_and_allocate(update + 1)
        optimizer.zero_grad()
        names = ("input_ids", "attention_mask", "token_type_ids", "pooled_positions")
        rows = {name: batch[name] for name in names}
        rows |= {"labels": labels.astype(np.int32)[:, None], "weights": np.ones((5, 1), np.float32)}
        state, metrics = step(state, rows, frozen)
        assert float(metrics["loss"]) == pytest.approx(theirs.item(), rel=1e-4), update
    whole = jax.device_get(rates.parts.join(state.params, frozen))
    model.save_pretrained(tmp_path / "peft")
    read, read_config, _, info = read_hf_folder(tmp_path / "peft")
    whole, config = encoded(whole, config)
    if way not in VIRTUAL:
        whole, config = folded(whole, config)
        merged = tensors_of(model.merge_and_unload())
        for name, tensor in to_hf(read, read_config).items():
            np.testing.assert_allclose(tensor, merged[name], atol=1e-6, err_msg=name)
    assert (read_config, info.found) == (config, HEADS)
    theirs = to_hf(read, config)
    for name, tensor in to_hf(whole, config).items():
        np.testing.assert_allclose(tensor, theirs[name], atol=1e-4, err_msg=name)


def apart(gradients, exact):
    """The norm of the difference of two lists of arrays over the norm of the second."""
    pairs = [
        (np.asarray(one), np.asarray(other)) for one, other in zip(gradients, exact, strict=True)
    ]
    difference = sum(np.square(one - other).sum() for one, other in pairs)
    return float(np.sqrt(difference / sum(np.square(other).sum() for _, other in pairs)))


@pytest.mark.parametrize("way", ["adalora", "ia3", "prefix", "p_tuning"])
def test_gradients_in_bfloat16(base, way):
    """Those of an adapter are about as near to float32's as PEFT's are under autocast: 1 to 2 %."""
    model = wrapped(base, way)
    config, params = ours(model, way)
    batch = random_batch(0, rows=256, vocab_size=config.vocab_size)
    labels = np.random.default_rng(0).integers(0, 3, 256)
    own = [p for name, p in model.named_parameters() if p.requires_grad and "class" not in name]

    def theirs(autocast):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(**torch_inputs(batch), labels=torch.tensor(labels)).loss
        return [gradient.numpy() for gradient in torch.autograd.grad(loss, own)]

    names = ("input_ids", "attention_mask", "token_type_ids", "pooled_positions")
    rows = {name: jnp.asarray(batch[name]) for name in names}
    rows |= {"labels": jnp.asarray(labels)[:, None], "weights": jnp.ones((256, 1))}

    def gradient(dtype):
        build, objective = build_model(config.replace(dtype=dtype)), ClassificationObjective()
        parts = Rates(build, rules_of("head", 1.0, (), config.num_hidden_layers)).parts
        frozen = jax.tree.map(jnp.asarray, parts.frozen(params))

        @jax.jit
        @jax.grad
        def compute(trained):
            totals = objective(build.bind(parts.join(trained, frozen)), rows, keys=None)
            return loss_of(totals, totals.weight)

        found = dict(named(compute(parts.trained(params))))
        return [found[path] for path in sorted(found) if "/adapter/" in path]

    allowed = 1.5 * max(0.01, apart(theirs(True), theirs(False)))
    assert apart(gradient("bfloat16"), gradient("float32")) < allowed


def change(folder, **changes):
    """Changes keys of a folder's adapter_config.json."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"peft_type": "LOHA"},
            ConfigError,
            "peft_type='LOHA': expected one of LORA, ADALORA, IA3",
        ),
        ({"bias": "all"}, ConfigError, "bias='all': expected 'none'"),
        ({"base_model_name_or_path": "/no"}, ConfigError, "/no: there is no such folder"),
        ({"base_model_name_or_path": None}, DataError, "base_model_name_or_path=None: expected"),
        ({"r": 3}, DataError, r"lora_A.weight has shape \(4, 48\): expected \(3, 48\)"),
        ({"r": 4000}, ConfigError, "adapter.rank=4000 is above that of the matrices"),
    ],
)
def test_folders_that_cannot_be_read(base, tmp_path, changes, error, message):
    """One line says what to mend."""
    wrapped(base, "lora").save_pretrained(tmp_path / "peft")
    change(tmp_path / "peft", **changes)
    with pytest.raises(error, match=message):
        read_hf_folder(tmp_path / "peft")
