"""Tests of the pictures of a generator: what the grid shows, when it is saved, what is refused."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.callbacks import generated_images

pytestmark = pytest.mark.usefixtures("eagerly")


def test_a_grid_shows_the_images_side_by_side():
    images = np.stack([np.full((2, 3, 1), value) for value in (-1.0, 0.0, 1.0)])
    whole = generated_images.grid(images)
    assert whole.shape == (5, 7, 3)
    assert whole[0, 0, 0] == 0.0
    assert (whole[:2, 4:] == 0.5).all()
    assert (whole[3:, :3] == 1.0).all()
    assert (whole[2] == 1.0).all()  # between them
    colours = np.zeros((1, 2, 2, 3))
    colours[..., 2] = 4.0
    assert (generated_images.grid(colours) == [0.0, 0.0, 1.0]).all()
    assert (generated_images.grid(np.ones((1, 2, 2, 1))) == 0.0).all()


def test_it_is_saved_every_so_many_epochs(tmp_path):
    from matplotlib.image import imread

    nets = [
        mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(4, 4, 1))
        for _ in range(2)
    ]
    distiller = mr.DataFreeDistiller(student=nets[0], teacher=nets[1], image_range=(0.0, 1.0))
    distiller.compile("sgd")
    pictures = mr.callbacks.GeneratedImages(tmp_path / "made", count=5, every=2, seed=3)
    fitting = {"steps_per_epoch": 1, "batch_size": 4, "verbose": 0}
    distiller.fit(epochs=5, callbacks=[pictures], **fitting)
    assert [path.name for path in pictures.files] == ["epoch_0002.png", "epoch_0004.png"]
    distiller.fit(initial_epoch=5, epochs=6, callbacks=[pictures], **fitting)
    expected = generated_images.grid(distiller.generate(5, seed=3))
    found = imread(tmp_path / "made" / "epoch_0006.png")[..., :3]
    np.testing.assert_allclose(found, expected, atol=1 / 255)


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="every must be a positive integer"):
        mr.callbacks.GeneratedImages(tmp_path, every=0)
    with pytest.raises(ValueError, match="folder must be the path of a folder"):
        mr.callbacks.GeneratedImages(None)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Received: a Sequential, which has none"):
        pictures = mr.callbacks.GeneratedImages(tmp_path)
        model.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0, callbacks=[pictures])
