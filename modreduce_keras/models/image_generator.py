"""A small generator of images from noise, for distillation without data."""

import math
from collections.abc import Sequence

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.models.shapes import require_image_range, require_image_shape


def image_generator(
    image_shape: tuple[int, int, int],
    *,
    image_range: Sequence[float],
    noise_size: int = 100,
    width: int = 64,
    contrast: float = 2.0,
    name: str = "image_generator",
) -> keras.Model:
    """Builds a convolutional generator, from a vector of noise to an image.

    A Dense layer makes maps of a quarter of the image's height and width; twice, these are
    enlarged, convolved and normalized; a last convolution gives the channels, and a sigmoid, scaled
    to `image_range`, the pixels. A normalization before the sigmoid keeps the pixels of a batch
    from all being the same. Its scale and offset, the contrast and the brightness of the images,
    are learnt; they begin at `contrast` and 0.

    Args:
        image_shape: (height, width, channels) of the images.
        image_range: The lowest and the highest value of a pixel, as the teacher is given them:
            `(0.0, 1.0)`; `mr.models.preprocessing(teacher)` tells it for many models.
        noise_size: Number of values of the noise. Defaults to 100.
        width: Channels of the last maps before the image; those before have twice as many.
            Defaults to 64.
        contrast: Standard deviation of what the sigmoid is given at the start. Defaults to 2: the
            pixels then deviate by 0.3 of the range. Of grey images (at 1 by 0.2), a teacher
            says little that holds for real ones.
        name: Name of the model.

    Returns:
        A functional model from (batch, noise_size) to (batch, height, width, channels).

    Raises:
        ValueError: If an argument is something else.

    Example:
        >>> import numpy as np
        >>> generator = image_generator((28, 28, 1), image_range=(-1.0, 1.0), width=8)
        >>> images = generator(np.random.default_rng(0).normal(size=(2, 100)))
        >>> tuple(images.shape), bool(abs(images.numpy()).max() <= 1.0)
        ((2, 28, 28, 1), True)

    Reference:
        Radford, Metz and Chintala, Unsupervised Representation Learning with Deep Convolutional
        Generative Adversarial Networks, 2016; enlarged as in Micaelli and Storkey, 2019, whose
        images are unbounded: they end with the normalization.
    """
    require_image_shape(image_shape, known=True, name="image_shape")
    low, high = require_image_range(image_range)
    noise_size = require_integer("noise_size", noise_size)
    width = require_integer("width", width)
    scale = keras.initializers.Constant(require_number("contrast", contrast, above=0.0))
    height, breadth, channels = image_shape
    small = math.ceil(height / 4), math.ceil(breadth / 4)
    noise = keras.Input((noise_size,), name="noise")
    maps = layers.Dense(math.prod(small) * 2 * width, name="maps")(noise)
    maps = layers.Reshape((*small, 2 * width), name="reshape")(maps)
    maps = layers.BatchNormalization(name="maps_norm")(maps)
    for number, filters in enumerate((2 * width, width), start=1):
        maps = layers.UpSampling2D(2, name=f"enlarge{number}")(maps)
        maps = layers.Conv2D(filters, 3, padding="same", name=f"conv{number}")(maps)
        maps = layers.BatchNormalization(name=f"norm{number}")(maps)
        maps = layers.LeakyReLU(0.2, name=f"activation{number}")(maps)
    excess = 4 * small[0] - height, 4 * small[1] - breadth
    if any(excess):
        maps = layers.Cropping2D(((0, excess[0]), (0, excess[1])), name="crop")(maps)
    pixels = layers.Conv2D(channels, 3, padding="same", name="pixels")(maps)
    pixels = layers.BatchNormalization(gamma_initializer=scale, name="pixels_norm")(pixels)
    # In float32 under every policy: bytes in bfloat16 would have two digits.
    pixels = layers.Activation("sigmoid", dtype="float32", name="sigmoid")(pixels)
    images = layers.Rescaling(high - low, offset=low, dtype="float32", name="image")(pixels)
    return keras.Model(noise, images, name=name)
