import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported; it would look for TensorFlow

import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import torch

from lib.errors import ModelError
from lib.networks.keras_weights import load_keras_weights
from lib.networks.unet import MulticlassUNet

FILTERS = (16, 32, 64, 128, 256)


def keras_unet(filters=FILTERS, classes=3):
    def level(tensor, count, dropout):
        tensor = keras.layers.Conv2D(count, 3, activation="relu", padding="same")(tensor)
        tensor = keras.layers.Dropout(dropout)(tensor)
        return keras.layers.Conv2D(count, 3, activation="relu", padding="same")(tensor)

    image = keras.layers.Input((None, None, 3))
    tensor, skips = image, []
    for count, dropout in zip(filters, (0.1, 0.1, 0.2, 0.2, 0.3), strict=False):
        tensor = level(keras.layers.MaxPooling2D((2, 2))(tensor) if skips else tensor, count, dropout)
        skips.append(tensor)
    for skip, count, dropout in zip(skips[-2::-1], filters[-2::-1], (0.2, 0.2, 0.1, 0.1), strict=False):
        tensor = keras.layers.Conv2DTranspose(count, (2, 2), strides=(2, 2), padding="same")(tensor)
        tensor = level(keras.layers.concatenate([tensor, skip]), count, dropout)
    model = keras.Model(image, keras.layers.Conv2D(classes, 1, activation="softmax")(tensor))

    random = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            fan_in = kernel[..., 0].size
            layer.set_weights([random.normal(0, (2 / fan_in) ** 0.5, kernel.shape), random.normal(0, 0.1, bias.shape)])
    return model


@dataclass
class Original:
    model: keras.Model
    folder: Path

    def predict(self, image, *, logits):
        """What Keras makes of `(N, C, H, W)`, in the same axes."""
        head = self.model.layers[-1]
        head.activation = keras.activations.linear if logits else keras.activations.softmax
        with torch.no_grad():
            result = self.model(image.permute(0, 2, 3, 1), training=False)
        return torch.as_tensor(result).cpu().permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A Keras U-Net with random weights, saved in every way."""
    folder = tmp_path_factory.mktemp("keras")
    model = keras_unet()
    model.save(folder / "whole.keras")
    model.save(folder / "whole.h5")
    model.save_weights(folder / "modern.weights.h5")
    with h5py.File(folder / "whole.h5") as whole, h5py.File(folder / "weights.h5", "w") as weights:
        # save_weights("weights.h5") of Keras 2: the same groups one level higher, texts as bytes
        root = whole["model_weights"]
        for name in root:
            root.copy(name, weights)
            weights[name].attrs["weight_names"] = [text.encode() for text in root[name].attrs["weight_names"]]
        weights.attrs["layer_names"] = [text.encode() for text in root.attrs["layer_names"]]
    with h5py.File(folder / "modern.weights.h5") as modern, h5py.File(folder / "between.weights.h5", "w") as between:
        modern.copy("layers", between, "_layer_checkpoint_dependencies")  # as Keras 2.13 writes it
    return Original(model, folder)


@pytest.mark.parametrize("name", ["whole.keras", "whole.h5", "weights.h5", "modern.weights.h5", "between.weights.h5"])
def test_imported_weights_give_the_same_predictions(original, name):
    network = MulticlassUNet().eval()
    load_keras_weights(original.folder / name, network)
    torch.manual_seed(0)
    for size in ((64, 64), (32, 80)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            logits = network(image)
        assert logits.std() > 0.1
        torch.testing.assert_close(logits, original.predict(image, logits=True), rtol=0, atol=1e-4)
        torch.testing.assert_close(logits.softmax(1), original.predict(image, logits=False), rtol=0, atol=1e-4)


def test_both_networks_have_the_same_parameters(original):
    assert original.model.count_params() == sum(parameter.numel() for parameter in MulticlassUNet().parameters())


def unchanged_network(**arguments):
    torch.manual_seed(5)
    return MulticlassUNet(**arguments)


def assert_refused(path, message, **arguments):
    network = unchanged_network(**arguments)
    with pytest.raises(ModelError, match=message) as caught:
        load_keras_weights(path, network)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    before = unchanged_network(**arguments).state_dict()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["whole.h5", "whole.keras"])
def test_other_classes_are_refused_by_layer(original, name):
    message = (
        r"the layer conv2d\S* in .* a kernel of shape \(1, 1, 16, 3\); head of .* needs \(1, 1, 16, 2\) \(Conv2D\)"
    )
    assert_refused(original.folder / name, message, out_channels=2)


def test_other_depth_is_refused(original):
    shallow = {"filters": FILTERS[:4], "dropout": (0.1,) * 4, "up_dropout": (0.1,) * 3}
    assert_refused(original.folder / "whole.keras", "holds 19 Conv2D layers; the network has 15", **shallow)
    assert_refused(original.folder / "weights.h5", "holds 23 convolution layers; .* has 18", **shallow)


def test_missing_bias_is_refused(original, tmp_path):
    path = Path(shutil.copy(original.folder / "modern.weights.h5", tmp_path))
    with h5py.File(path, "a") as file:
        del file["layers/conv2d_3/vars/1"]
    assert_refused(path, r"the layer conv2d_3 in .* has no bias; encoder\.1\.conv2 needs \(32,\)")


def test_foreign_layers_are_refused(original, tmp_path):
    path = Path(shutil.copy(original.folder / "modern.weights.h5", tmp_path))
    with h5py.File(path, "a") as file:
        file["layers/batch_normalization/vars/0"] = np.ones(16)
    assert_refused(path, "the layer batch_normalization in .* has weights but is no Conv2D and no Conv2DTranspose")


def test_files_that_are_no_keras_weights(tmp_path):
    text, archive, empty = tmp_path / "a.h5", tmp_path / "b.keras", tmp_path / "c.h5"
    text.write_text("no HDF5 at all")
    torch.save({"model": {}}, archive)  # a zip file, too
    h5py.File(empty, "w").close()
    assert_refused(text, "is no Keras weights file")
    assert_refused(archive, "is no Keras weights file.*model.weights.h5")
    assert_refused(empty, "holds 0 Conv2D layers; the network has 19")
    assert_refused(tmp_path / "absent.h5", "there is no weights file")
