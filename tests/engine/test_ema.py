"""The moving average of the weights, by number."""

from __future__ import annotations

import torch
from torch import nn

from ramses_d2.engine.hooks import EmaWeights


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
        torch.testing.assert_close(ema.module[0].weight.detach(), torch.full((1, 2), expected))
    # Buffers are those of the network
    assert ema.module[1].running_mean == 16.0 and ema.module[1].num_batches_tracked == 16


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
    assert all(torch.equal(value, two.module.state_dict()[name]) for name, value in one.module.state_dict().items())


def test_a_parallel_wrapper_leaves_no_trace_in_the_names() -> None:
    wrapper = nn.Module()
    wrapper.module = network()
    assert EmaWeights(wrapper, 0.9).module.state_dict().keys() == wrapper.module.state_dict().keys()
