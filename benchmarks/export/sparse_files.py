"""Sparse files: what TFLite's sparse format saves of a network with zeros, in bytes and in time.

TensorFlow's converter stores kernels with zeros in a sparse format if it is given
`tf.lite.Optimize.EXPERIMENTAL_SPARSITY`. A network with 0, 80 and 90 % zeros in its kernels is
converted with this option and without, and both files run in LiteRT's interpreter with XNNPACK, on
one thread and one image at a time. Networks:

- `convnet`: the quick start's student, with zeros in all kernels;
- `mobilenet`: MobileNet (alpha 0.5, 96 x 96), with zeros in its convolutions of 1 x 1, which
  XNNPACK has sparse kernels for.

Weights are random: neither size nor time depends on them. Both files run by turns, and the ratio of
their times is that of the same round. The largest difference of their outputs is a row's as well.

    python -m benchmarks.export.sparse_files
"""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("network", ["convnet", "mobilenet"], ["convnet", "mobilenet"], "Networks")
flags.DEFINE_multi_float("sparsity", [0.0, 0.8, 0.9], "Shares of zeros", 0.0, 1.0)
flags.DEFINE_integer("rounds", 100, "Rounds, each with both files", lower_bound=2)
flags.DEFINE_integer("steps", 10, "Images that a file is given in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_string("output", str(common.RESULTS / "sparse_files.jsonl"), "Rows go here")

FORMATS = ("plain", "sparse")


def network(name: str, sparsity: float) -> keras.Model:
    """Returns an untrained network with zeros, for one image at a time."""
    keras.utils.set_random_seed(FLAGS.seed)
    if name == "convnet":
        net = mr.models.get("convnet", num_classes=10, widths=(20, 40, 80))
    else:
        given = {"weights": None, "classes": 10, "classifier_activation": None}
        net = keras.applications.MobileNet((96, 96, 3), alpha=0.5, **given)
    images = np.random.default_rng(FLAGS.seed).normal(size=(32, *net.input_shape[1:]))
    common.adopt_statistics(net, images.astype("float32"))
    for layer in net.layers:
        if is_pruned(layer, of_ones=name == "mobilenet"):
            kernel = layer.kernel.numpy()
            kernel[np.abs(kernel) < np.quantile(np.abs(kernel), sparsity)] = 0.0
            layer.kernel.assign(kernel)
    image = keras.Input(batch_shape=(1, *net.input_shape[1:]))
    return keras.Model(image, net(image, training=False), name=name)


def is_pruned(layer: keras.layers.Layer, *, of_ones: bool) -> bool:
    """Returns whether a layer gets zeros: convolutions and Dense layers, or those of 1 x 1 only."""
    if of_ones:
        return type(layer) is keras.layers.Conv2D and layer.kernel_size == (1, 1)
    return type(layer) in (keras.layers.Conv2D, keras.layers.Dense)


def converted(model: keras.Model, form: str) -> bytes:
    """Returns a TFLite file of a network, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if form == "sparse":
            converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        return converter.convert()


def runner(content: bytes, image: np.ndarray) -> tuple[Callable[[], Any], np.ndarray]:
    """Returns a function that runs a file on an image, and what the file answers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.invoke, interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def measure(name: str, sparsity: float) -> list[dict[str, Any]]:
    """Returns the rows of a network: its plain file, and its sparse one."""
    model = network(name, sparsity)
    image = np.random.default_rng(FLAGS.seed + 1).normal(size=model.input_shape).astype("float32")
    contents = {form: converted(model, form) for form in FORMATS}
    runners = {form: runner(content, image) for form, content in contents.items()}
    functions = {form: function for form, (function, _) in runners.items()}
    times = common.interleave(functions, rounds=FLAGS.rounds, steps=FLAGS.steps)
    expected = runners["plain"][1]
    return [
        {
            **{"network": name, "sparsity": sparsity, "file": form},
            **{"bytes": len(content), "gzipped": len(gzip.compress(content))},
            "difference": float(np.abs(runners[form][1] - expected).max()),
            "largest_output": float(np.abs(expected).max()),
            **common.spread(times[form], "ms"),
            **common.spread(common.paired_ratios(times[form], times["plain"]), "ratio"),
        }
        for form, content in contents.items()
    ]


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("ERROR")
    sizes = {name: FLAGS[name].value for name in ("rounds", "steps")}
    for name in FLAGS.network:
        for sparsity in FLAGS.sparsity:
            rows = measure(name, sparsity)
            about = {**sizes, **common.metadata(FLAGS.seed)}
            common.append_rows(Path(FLAGS.output), [{**row, **about} for row in rows])
            for row in rows:
                figures = (
                    f"{row['bytes']:9,} bytes {row['ms_median']:.3f} ms {row['ratio_median']:.2f}"
                )
                print(f"{name:10} {sparsity:.0%} {row['file']:7} {figures}", flush=True)


if __name__ == "__main__":
    app.run(main)
