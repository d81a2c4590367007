"""Time series: sounds as spectrograms, and the small networks that classify them."""

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from benchmarks.matrix.hub import CLASSES

FRAMES, BANDS, WINDOW = 32, 32, 64


def sounds(several: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns log spectrograms, (several, frames, bands), of tones that rise or fall, and classes.

    A class is a pitch and a direction; loudness, phase and noise are random.
    """
    random = np.random.default_rng(seed)
    classes = np.arange(several) % CLASSES
    times = np.arange(FRAMES * WINDOW) / WINDOW  # in windows
    pitch, direction = 3.0 + 4.0 * (classes // 2), np.where(classes % 2, 0.04, -0.04)
    phases = 2 * np.pi * (pitch[:, None] * times + direction[:, None] * times**2)
    waves = np.sin(phases + random.uniform(0, 2 * np.pi, (several, 1)))
    waves *= random.uniform(0.5, 2.0, (several, 1))
    waves += 0.3 * random.normal(size=waves.shape)
    windows = waves.reshape(several, FRAMES, WINDOW) * np.hanning(WINDOW)
    spectra = np.abs(np.fft.rfft(windows))[..., :BANDS]
    return np.log(spectra + 0.1).astype("float32"), classes


def _spectrogram(activation: str | None) -> keras.Model:
    """Builds a network that takes the spectrogram for an image."""
    x = image = keras.Input((FRAMES, BANDS, 1))
    for width in (16, 32, 64):
        x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation)(x), name="spectrogram")


def _convolutions(activation: str | None) -> keras.Model:
    """Builds a network of convolutions along time."""
    x = series = keras.Input((FRAMES, BANDS))
    for width in (32, 48, 64):
        x = layers.Conv1D(width, 3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(series, layers.Dense(CLASSES, activation)(x), name="convolutions")


def _recurrent(activation: str | None, *, unroll: bool = False) -> keras.Model:
    """Builds a network of two recurrent layers."""
    series = keras.Input((FRAMES, BANDS))
    x = layers.GRU(48, return_sequences=True, unroll=unroll)(series)
    x = layers.GRU(48, unroll=unroll)(x)
    return keras.Model(series, layers.Dense(CLASSES, activation)(x), name="recurrent")


SERIES: dict[str, tuple[str, Callable[[str | None], keras.Model]]] = {
    "Spectrogram": ("Spectrogram", _spectrogram),
    "Conv1D": ("Conv1D", _convolutions),
    "GRU": ("GRU", _recurrent),
    "unrolled GRU": ("GRU", functools.partial(_recurrent, unroll=True)),
}
"""Family and builder, for networks of a few layers of Keras."""
