"""Tests of the default generator: shapes, range and spread of the images, and what is refused."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 10, 3), (1, 4, 2)])
def test_images_have_their_shape_and_range(shape, random):
    generator = mr.models.image_generator(
        shape, image_range=(-2.0, 6.0), noise_size=9, width=4, contrast=1.5
    )
    noise = random.normal(size=(16, 9)).astype("float32")
    images = generator(noise, training=True).numpy()
    assert images.shape == (16, *shape)
    assert images.min() >= -2.0
    assert images.max() <= 6.0
    # Sigmoids of values of standard deviation 1.5, between 0 and 1.
    pixels = (images.astype("float64") + 2.0) / 8.0
    logits = np.log(pixels / (1.0 - pixels))
    np.testing.assert_allclose(logits.mean(axis=(0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(logits.std(axis=(0, 1, 2)), 1.5, atol=0.02)


def test_images_are_not_grey_at_the_start(random):
    generator = mr.models.image_generator((28, 28, 1), image_range=(0.0, 255.0), width=4)
    images = generator(random.normal(size=(32, 100)), training=True).numpy()
    # Those of the embedded sample deviate by 90, and natural images by about 64.
    assert 64 < images.std() < 90
    # Contrast and brightness are learnt.
    assert len(generator.get_layer("pixels_norm").trainable_variables) == 2


@pytest.mark.usefixtures("mixed_bfloat16")
def test_images_are_float32(random):
    generator = mr.models.image_generator((8, 8, 1), image_range=(0.0, 255.0), width=4)
    assert generator(random.normal(size=(2, 100))).dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (28, 28)}, r"image_shape must be \(height, width, channels\)"),
        ({"image_range": (1.0, 0.0)}, "image_range must be the lowest and the highest"),
        ({"image_range": 1.0}, "image_range must be the lowest and the highest"),
        ({"noise_size": 0}, "noise_size must be a positive integer"),
        ({"width": "8"}, "width must be a positive integer"),
        ({"contrast": 0.0}, "contrast must be"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    given = {"image_shape": (8, 8, 1), "image_range": (0.0, 1.0), **arguments}
    with pytest.raises(ValueError, match=message):
        mr.models.image_generator(given.pop("image_shape"), **given)
