"""Every Python block of the README and of the site runs, from top to bottom of its page.

The blocks run as they stand, but for what is large: the data are a few made-up samples, pretrained
networks are small ones, and `SIZES` are smaller numbers. A comment `<!-- python ... -->` is a block
that readers do not see: what a page of fragments takes for granted.
"""

import doctest
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.data import sample

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$|^<!-- python\n(.*?)^-->$", re.DOTALL | re.MULTILINE)
PAGES = {
    path.relative_to(ROOT).as_posix(): [a or b for a, b in BLOCK.findall(path.read_text("utf-8"))]
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
PAGES = {page: blocks for page, blocks in PAGES.items() if blocks}

IMAGES = 64
SIZES = {
    r"\b8500\b": "48",
    r"\b2000 \* \(LENGTH": "40 * (LENGTH",
    r"\bsteps(_per_epoch)?=\d{3,}": r"steps\g<1>=2",
    r"\bepochs(\s*=\s*)\d+": r"epochs\g<1>1",
    r"\bbatch_size=\d+": "batch_size=16",
    r"\bmax_iter=\d+": "max_iter=2",
    r"\bcandidates=\d+": "candidates=2",
    r"\bmax_trials=\d+": "max_trials=1",
    r"\bnegatives=\d+": "negatives=4",
    r"\(224, 224\)": "(32, 32)",
    r'"imagenet"': "None",
    r"LENGTH = 10_000, 200": "LENGTH = 50, 6",
    r"least_agreement=[\d.]+": "least_agreement=0.0",
    r"(verify\(\w+, \w+, \w+)\)": r"\1, least_agreement=0.0)",
}
"""Networks that are hardly trained are unsure of every answer, so their files need not agree."""


def made_up_images():
    """Returns what `mr.data.load_sample()` does, with few images and all classes."""
    random = np.random.default_rng(0)
    images = random.random((2 * IMAGES, 28, 28, 1)).astype("float32")
    classes = np.arange(2 * IMAGES) % 10
    return (images[:IMAGES], classes[:IMAGES]), (images[IMAGES:], classes[IMAGES:])


def made_up_texts(num_words):
    """Returns what `keras.datasets.reuters.load_data()` does: lists of words of any length."""
    random = np.random.default_rng(0)
    texts = [random.integers(1, num_words, length).tolist() for length in range(2, 34)]
    return (texts, np.arange(32) % 46), (texts[:16], np.arange(16) % 46)


def write_photos(folder):
    """Writes a folder of images with a folder for each class."""
    random = np.random.default_rng(0)
    for name in ("cat", "cow", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(18):
            pixels = random.integers(0, 256, (8, 8, 3)).astype("float32")
            keras.utils.save_img(folder / name / f"{number}.png", pixels, scale=False)


def small_backbone(*, include_top, pooling, input_shape, weights, alpha=1.0):
    """Returns a stand-in for a network of `keras.applications`."""
    assert not include_top and pooling == "avg" and weights is None
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, 4, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def smaller(block):
    for written, tiny in SIZES.items():
        block = re.sub(written, tiny, block)
    return block


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty folder with photos in it, and small data in the place of downloads."""
    monkeypatch.setattr(mr.data, "load_sample", made_up_images)
    monkeypatch.setattr(sample, "load_sample", made_up_images)
    monkeypatch.setattr(keras.datasets.reuters, "load_data", made_up_texts)
    for name in ("ResNet50V2", "MobileNetV2"):
        monkeypatch.setattr(keras.applications, name, small_backbone)
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")


@pytest.mark.docs
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, offline, eagerly, scratch_registry, capfd):
    namespace = {"__name__": "page"}
    for number, block in enumerate(PAGES[page]):
        code = compile(smaller(block), f"{page}, block {number + 1}", "exec")
        exec(code, namespace)
    for made in list(namespace.values()):
        if isinstance(made, type) and made.__module__ == "page":
            doctest.run_docstring_examples(made, namespace, made.__name__)
    assert "Failed example" not in capfd.readouterr().out


@pytest.mark.parametrize("written", SIZES)
def test_every_size_is_used(written):
    assert any(re.search(written, block) for blocks in PAGES.values() for block in blocks)


def test_pages_have_blocks():
    assert {"README.md", "docs/index.md", "docs/guides/own_images.md"} <= set(PAGES)
