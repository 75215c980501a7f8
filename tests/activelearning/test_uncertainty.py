import numpy as np
import pytest
import torch
from torch import nn

from lib.activelearning.uncertainty import mutual_information, uncertainty_score
from lib.networks.unet import MulticlassUNet
from lib.transforms.windowing import DEFAULT_CHANNELS


def hu(shape=(6, 33, 40), seed=0):
    return np.random.default_rng(seed).integers(-1000, 300, shape).astype(np.int16)


def score(network, image=None, **options):
    chosen = {"passes": 4, "slices": 3, "precision": "float32"} | options
    return uncertainty_score(network, hu() if image is None else image, DEFAULT_CHANNELS, **chosen)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MulticlassUNet(filters=(4, 4, 8, 8, 8)).eval()


class Calls(list):
    """Calls of a network and of its copies."""

    def __deepcopy__(self, memo):
        return self


class Spy(nn.Module):
    """Remembers how it and its copies were called; always the same class, dropout on the logits."""

    def __init__(self, foreground=0.0, dropout=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.dropout, self.norm = nn.Dropout(dropout), nn.BatchNorm2d(3)
        self.bias = torch.tensor([0.0, foreground, 0.0]).view(1, 3, 1, 1)
        self.calls = Calls()

    def forward(self, image):
        self.calls.append((self.training, self.dropout.training, self.norm.training, image.shape))
        return self.dropout(0.1 * image * self.scale) + self.bias


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


def test_a_score_can_be_repeated_and_leaves_the_network_as_it_was(network):
    weights = [parameter.clone() for parameter in network.parameters()]
    random_state = torch.get_rng_state()
    value = score(network)
    assert value > 0
    assert score(network) == value
    assert score(network, seed=1) != value
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_only_dropout_is_active():
    spy = Spy().train()
    score(spy, passes=3, slices=2)
    assert len(spy.calls) == 2 * 3
    assert {call[:3] for call in spy.calls} == {(False, True, False)}


def test_whoever_segments_with_the_network_meanwhile_gets_no_dropout():
    class Shared(Spy):
        def forward(self, image):
            assert not shared.dropout.training
            return super().forward(image)

    shared = Shared().eval()
    score(shared)
    assert shared.calls


def test_without_dropout_every_pass_agrees():
    assert score(MulticlassUNet(filters=(4, 4, 8, 8, 8), dropout=[0] * 5, up_dropout=[0] * 4)) < 1e-6


def test_evenly_spaced_slices_each_once():
    for slices, looked_at in ((1, 1), (3, 3), (6, 6), (100, 6)):
        spy = Spy()
        score(spy, slices=slices, passes=2)
        assert len(spy.calls) == 2 * looked_at
        assert {call[3] for call in spy.calls} == {(1, 3, 48, 48)}


def test_a_single_slice(network):
    assert score(network, hu((1, 16, 16))) >= 0


def test_background_does_not_decide():
    class Halves(nn.Module):
        """Upper half background that the passes disagree on, lower half liver that they agree on."""

        def __init__(self):
            super().__init__()
            self.weight, self.dropout = nn.Parameter(torch.ones(1)), nn.Dropout(0.5)

        def forward(self, image):
            logits = torch.zeros(1, 3, *image.shape[2:])
            logits[:, 0] = 4
            logits[:, 0, :16] += self.dropout(self.weight * torch.ones(16, image.shape[3]))
            logits[:, 1, 16:] = 9
            return logits

    class Background(Halves):
        def forward(self, image):
            logits = super().forward(image)
            logits[:, 1, 16:] = 0
            return logits

    image = hu((1, 32, 32))
    assert score(Halves(), image) < 1e-6
    assert score(Background(), image) > 1e-5  # nothing but background: all voxels count
