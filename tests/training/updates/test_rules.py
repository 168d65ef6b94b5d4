"""Rates by path and by layer, against PyTorch's parameter groups; a backward pass that stops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hf_reference import SMALL, our_side, random_batch
from task_batches import classification, torch_arguments

from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.parts import named
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.updates.rules import Rates, rules_of

HEADS = ("pooler", "classification")
LAYERS = 4


def tiny_model():
    config = EncoderConfig(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=16,
        heads=HEADS,
    )
    return build_model(config)


def rates_of(model, trainable="all", layer_decay=1.0, rules=(), unfreeze=0.0):
    layers = model.config.num_hidden_layers
    rules = rules_of(trainable, layer_decay, rules, layers)
    return Rates(model, rules, unfreeze=unfreeze)


def test_factors_of_layer_decay_and_rules():
    """By hand: 1 above the layers, 0.5 at the last one, 0.5 to the fifth at the embeddings."""
    model = tiny_model()
    rules = [
        ["encoder/layers/feed_forward/.*", 3.0],
        ["encoder/layers/.*", {"rate": None, "below": 1}],
    ]
    found = {path: rates for path, _, rates in rates_of(model, "all", 0.5, rules).explained()}
    assert found["heads/classification/kernel"] == found["encoder/pooler/bias"] == (1.0,)
    assert found["encoder/embeddings/word_embeddings"] == (0.5**5,)
    assert found["encoder/layers/attention/query/kernel"] == (0.0, 0.5**3, 0.5**2, 0.5)
    assert found["encoder/layers/feed_forward/output/bias"] == (0.0, 0.375, 0.75, 1.5)


def test_when_each_layer_opens():
    """Heads from the start; the stages are those of what is trained at all."""
    model = tiny_model()
    opens = dict(named(rates_of(model, unfreeze=0.5).opens))
    assert opens["encoder/pooler/kernel"] == opens["heads/classification/bias"] == 0
    assert opens["encoder/layers/feed_forward/output/bias"].ravel().tolist() == [0.4, 0.3, 0.2, 0.1]
    assert opens["encoder/embeddings/word_embeddings"].tolist() == [[0.5]]
    opens = dict(named(rates_of(model, "top2", unfreeze=0.5).opens))
    assert opens["encoder/layers/feed_forward/output/kernel"].tolist() == [[[0.5]], [[0.25]]]


@pytest.mark.parametrize("unfreeze", [0.0, 0.6])
def test_rates_and_unfreezing_of_layers_equal_parameter_groups_of_torch(unfreeze):
    """Ten updates of AdamW with a rate and a decay for each layer, as timm sets them up.

    With unfreezing, torch's parameters have no gradient before: no decay, no moments, no count of
    updates. Until then they keep every bit here, and nothing is compiled again.
    """
    torch.manual_seed(0)
    hf_config = transformers.BertConfig(**{**SMALL, "num_hidden_layers": 2, "num_labels": 3})
    theirs = transformers.BertForSequenceClassification(hf_config).train()
    config, params = our_side(theirs, HEADS)
    model = build_model(config)
    rows = random_batch(0, rows=6)
    _, batch, labels = classification(np.random.default_rng(0), rows)
    arguments = torch_arguments(classification, rows, batch, labels)

    def depth(name):
        if "embeddings" in name:
            return 3
        return 2 - int(name.split("layer.")[1][0]) if "layer." in name else 0

    groups = [
        {
            "params": [parameter],
            "lr": 3e-3 * 0.5 ** depth(name),
            "weight_decay": 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1,
        }
        for name, parameter in theirs.named_parameters()
    ]
    optimizer, expected = torch.optim.AdamW(groups, eps=1e-6), []
    for update in range(10):
        loss = theirs(**arguments).loss
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in theirs.named_parameters():
            # 0, 2, 4 and 6 of 10 updates.
            if unfreeze and update < 2 * depth(name):
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        expected.append(loss.item())

    rates = rates_of(model, layer_decay=0.5, unfreeze=unfreeze)
    ours, schedule = make_optimizer(
        OptimizerConfig(learning_rate=3e-3, weight_decay=0.1),
        ScheduleConfig("constant"),
        10,
        rates.parts.axes(),
        rates.factors,
        rates.opens,
    )
    state = init_state(model, ours, seed=0, params=params)
    step = make_train_step(model, ClassificationObjective(), ours, schedule, seed=0)
    found = []
    for update in range(10):
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"]))
        after = dict(named(jax.device_get(state.params)))
        for path, before in named(params):
            stacked = "layers" in path
            depths = (2, 1) if stacked else (3,) if "embeddings" in path else (0,)
            pairs = zip(before, after[path], strict=True) if stacked else [(before, after[path])]
            for layer, (old, new) in zip(depths, pairs, strict=True):
                if unfreeze and update < 2 * layer:
                    np.testing.assert_array_equal(old, new, path)
    assert found[-1] < 0.8 * found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert step._cache_size() == 1


@pytest.mark.parametrize("trainable", ["head", "top1", "top2", "bias"])
def test_gradients_of_a_part_are_those_of_the_whole(trainable):
    """The frozen tree is an argument like any other; what is trained does not notice it."""
    config = EncoderConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
        heads=HEADS,
        num_labels=3,
    )
    model = build_model(config)
    params = model.init(jax.random.key(0))
    _, batch, _ = classification(np.random.default_rng(0), random_batch(0, rows=6))
    batch = jax.tree.map(jnp.asarray, batch)
    objective, parts = ClassificationObjective(), rates_of(model, trainable).parts
    trained, frozen = parts.trained(params), parts.frozen(params)

    def loss(params, first_layer=0):
        return objective(model.bind(params, first_layer), batch, keys=None).loss["classification"]

    whole = parts.trained(jax.grad(loss)(params))

    def of_part(trained):
        return loss(parts.join(trained, frozen), parts.first_layer)

    part = jax.grad(of_part)(trained)
    for (path, one), (other_path, other) in zip(named(part), named(whole), strict=True):
        assert path == other_path
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7, err_msg=path)


def test_the_backward_pass_stops_at_the_first_trained_layer():
    """Operations and temporary memory of an update fall with the layers that are trained."""
    config = EncoderConfig(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=32,
        heads=HEADS,
    )
    model = build_model(config)
    _, batch, _ = classification(np.random.default_rng(0), random_batch(0, rows=6))
    costs = {}
    for trainable in ("all", "top2", "head"):
        rates = rates_of(model, trainable)
        optimizer, schedule = make_optimizer(
            OptimizerConfig(), ScheduleConfig(), 10, rates.parts.axes(), rates.factors
        )
        state = init_state(model, optimizer, seed=0, parts=rates.parts)
        step = make_train_step(
            model, ClassificationObjective(), optimizer, schedule, seed=0, parts=rates.parts
        )
        # Two moments for each trained value, and a count.
        moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
        assert moments == 2 * rates.trained_parameters
        frozen = rates.parts.frozen(model.init(jax.random.key(0)))
        compiled = step.lower(state, batch, frozen).compile()
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        costs[trainable] = cost["flops"], memory.temp_size_in_bytes
    # A backward pass costs twice a forward one.
    assert costs["top2"][0] < 0.72 * costs["all"][0]
    assert costs["head"][0] < 0.4 * costs["all"][0]
    assert costs["head"][1] < costs["top2"][1] < costs["all"][1]
