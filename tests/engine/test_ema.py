"""The moving average of the weights, by number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ramses_d2.engine.hooks import EmaWeights
from ramses_d2.errors import RamsesError


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))


def set_weights(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(int(value))


def test_the_average_by_number() -> None:
    model = network()
    set_weights(model, 1.0)
    ema = EmaWeights(model, 0.25)
    expected = 1.0
    for update, value in enumerate([2.0, 4.0, 8.0, 16.0]):
        set_weights(model, value)
        ema.update(model)
        kept = min(0.25, (1 + update) / (10 + update))  # 0.1, 0.18, 0.25, 0.25
        expected = kept * expected + (1 - kept) * value
        torch.testing.assert_close(ema.average["0.weight"], torch.full((1, 2), expected))
    # Buffers are those of the network
    assert ema.average["1.running_mean"] == 16.0 and ema.average["1.num_batches_tracked"] == 16


def test_inside_the_block_the_network_has_the_average_and_its_own_weights_after_it() -> None:
    model = network()
    set_weights(model, 1.0)
    ema = EmaWeights(model, 0.9)
    set_weights(model, 0.3)
    ema.update(model)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    parameter = model[0].weight
    with pytest.raises(InterruptedError), ema.applied_to(model):
        assert torch.equal(model[0].weight, ema.average["0.weight"]) and model[0].weight is parameter
        raise InterruptedError
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert model[0].weight.requires_grad


def test_an_average_goes_on_from_its_state() -> None:
    model = network()
    one, two = EmaWeights(model, 0.999), EmaWeights(model, 0.999)
    for value in (0.1, 0.7, 0.2):
        set_weights(model, value)
        one.update(model)
    two.load_state_dict(one.state_dict())
    set_weights(model, 0.9)
    one.update(model)
    two.update(model)
    assert one.updates == two.updates == 4
    assert all(torch.equal(value, two.average[name]) for name, value in one.average.items())


def test_half_precision_weights_are_averaged_in_fp32() -> None:
    model = nn.Linear(1, 1).half()
    ema = EmaWeights(model, 0.999)
    ema.update(model)
    assert {value.dtype for value in ema.average.values()} == {torch.float32}
    with ema.applied_to(model):
        assert model.weight.dtype == torch.float16


def test_a_parallel_wrapper_leaves_no_trace_in_the_names() -> None:
    wrapper = nn.Module()
    wrapper.module = network()
    assert EmaWeights(wrapper, 0.9).average.keys() == wrapper.module.state_dict().keys()


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5])
def test_a_decay_out_of_range_is_one_line(decay: float) -> None:
    with pytest.raises(RamsesError, match=f"EMA_DECAY is {decay}"):
        EmaWeights(network(), decay)
