import numpy as np
import pytest
import torch
from torch import nn

from lib.activelearning.dropout import Look, bald, mutual_information
from lib.networks.unet import MulticlassUNet
from lib.transforms.windowing import DEFAULT_CHANNELS


def look(z=0, shape=(33, 40), rows=slice(4, 20), columns=slice(8, 30)):
    hu = np.random.default_rng(z).integers(-1000, 300, shape).astype(np.int16)
    mask = np.ones((rows.stop - rows.start, columns.stop - columns.start), bool)
    mask[0] = False
    return Look(z, hu, rows, columns, mask)


def value(network, *looks, **options):
    chosen = {"passes": 4, "precision": "float32", "give_way": lambda: None} | options
    return bald(network, looks or (look(0), look(3)), DEFAULT_CHANNELS, **chosen)


def unet(**options):
    torch.manual_seed(0)
    return MulticlassUNet(filters=(4, 4, 8, 8, 8), **options).eval()


class Calls(list):
    """Calls of a network and of its copies."""

    def __deepcopy__(self, memo):
        return self


class Plain(nn.Module):
    """Not in halves; dropout of whole channels, on the logits."""

    def __init__(self, probability=0.5):
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.ones(1)), nn.Dropout2d(probability)
        self.norm = nn.BatchNorm2d(3)
        self.calls = Calls()

    def forward(self, image):
        self.calls.append((self.training, self.norm.training, image.shape))
        return self.dropout(self.scale * image)


class Halves(Plain):
    """In halves, each with dropout."""

    def encode(self, image):
        self.calls.append("encode")
        return [self.dropout(self.scale * image)]

    def decode(self, features):
        self.calls.append(("decode", len(features[0])))
        return self.dropout(features[0])


def test_mutual_information_by_hand():
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)  # each pass sure, of different classes
    assert mutual_information(sure).item() == pytest.approx(np.log(2), rel=1e-5)
    unsure = torch.full((2, 2, 1, 1), 0.5)  # both unsure, but they agree
    assert mutual_information(unsure).item() == pytest.approx(0, abs=1e-6)


def test_mutual_information_is_never_negative_and_at_most_the_entropy_of_the_classes():
    logits = 5 * torch.randn(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    information = mutual_information(logits.softmax(1))
    assert information.shape == (20, 20)
    assert information.min() >= 0
    assert information.max() <= np.log(3)


def test_identical_passes_have_no_mutual_information():
    one = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert mutual_information(one.expand(5, -1, -1, -1)).max() < 1e-6


def test_a_value_can_be_repeated_and_leaves_the_network_and_all_random_numbers_as_they_were():
    network = unet()
    weights = [parameter.clone() for parameter in network.parameters()]
    modules, state, own = list(network.modules()), torch.get_rng_state(), np.random.get_state()[1].copy()
    first = value(network)
    assert first > 1e-6
    assert value(network) == first
    assert value(network, seed=1) != first
    assert all(one is other for one, other in zip(modules, network.modules(), strict=True))
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], own)


def test_a_slice_gets_the_same_dropout_whatever_was_looked_at_before():
    network = unet()
    one, other = value(network, look(0)), value(network, look(3))
    assert value(network, look(0), look(3)) == pytest.approx((one + other) / 2, rel=1e-6)  # both of one size


def test_without_dropout_every_pass_agrees():
    assert value(unet(dropout=[0] * 5, up_dropout=[0] * 4)) < 1e-6
    assert value(Plain(0.0)) < 1e-6


def test_only_dropout_on_the_way_up_counts():
    assert value(unet(dropout=[0.5] * 5, up_dropout=[0] * 4)) < 1e-6
    assert value(unet(dropout=[0] * 5)) > 1e-6


def test_a_network_in_halves_encodes_each_slice_once():
    network = Halves().train()
    assert value(network, passes=3) > 1e-6
    assert network.calls == ["encode", ("decode", 3)] * 2


def test_large_slices_are_decoded_one_by_one(monkeypatch):
    network = Halves()
    monkeypatch.setattr("lib.activelearning.dropout._MOST_PIXELS", 48 * 48 * 2)
    value(network, look(), passes=3)
    monkeypatch.setattr("lib.activelearning.dropout._MOST_PIXELS", 1)
    value(network, look(), passes=2)
    assert network.calls == ["encode", ("decode", 2), ("decode", 1), "encode", ("decode", 1), ("decode", 1)]


def test_a_network_that_is_whole_is_run_as_often_as_there_are_passes():
    network = Plain().train()
    assert value(network, passes=3) > 1e-6
    assert network.calls == [(False, False, (3, 3, 48, 48))] * 2
    assert network.training


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_dropped_values_become_0_and_the_others_make_up_for_it(kind):
    class Ones(Plain):
        def forward(self, image):
            dropped = self.dropout(torch.ones(4, 400, 8, 8))
            assert set(dropped.unique().tolist()) == {0.0, 2.0}
            assert dropped.mean().item() == pytest.approx(1, abs=0.1)
            same = dropped.flatten(2).std(dim=2) == 0
            assert same.all() if kind is nn.Dropout2d else not same.any()
            return super().forward(image)

    network = Ones()
    network.dropout = kind(0.5)
    value(network)
    assert network.calls


def test_only_the_region_counts():
    class Right(Plain):
        """Disagrees with itself in the right half only."""

        def forward(self, image):
            logits = self.scale * image.clone()
            logits[..., 16:] = self.dropout(5 * logits[..., 16:])
            return logits

    wide = {"shape": (32, 32), "rows": slice(0, 32)}
    assert value(Right(), look(columns=slice(0, 16), **wide)) < 1e-6
    assert value(Right(), look(columns=slice(16, 32), **wide)) > 1e-3


def test_the_region_is_seen_with_its_surroundings_but_not_the_whole_slice():
    network = Plain()
    value(network, look(shape=(512, 400), rows=slice(200, 250), columns=slice(0, 30)), passes=2)
    assert network.calls[0][2] == (2, 3, 128, 64)  # 160 to 282 and 0 to 62, filled up


def test_it_gives_way_before_each_slice_and_stops_where_that_raises():
    calls = []
    value(Plain(), give_way=lambda: calls.append(1))
    assert len(calls) == 2

    def stop():
        raise InterruptedError

    network = Plain()
    with pytest.raises(InterruptedError):
        value(network, give_way=stop)
    assert not network.calls


def test_nothing_to_look_at():
    assert bald(Plain(), [], DEFAULT_CHANNELS, passes=2, give_way=lambda: None) == 0
