"""Whatever copies a model copies its whole state."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras import copying
from tests.support.models.stateful import (
    MAKERS,
    NUMBERS,
    Asset,
    Derived,
    OfNumbers,
    end,
    every_state,
    outputs,
    subclassed,
)


def differs_from_fresh(model, state):
    """Whether the state counts: a model rebuilt from its config with the weights is another."""
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    try:
        return not np.allclose(outputs(fresh, state), outputs(model, state))
    except Exception:
        return True  # a table that is not initialized


def test_weights_alone_are_not_the_state():
    lost = [state for state in MAKERS if differs_from_fresh(MAKERS[state](), state)]
    assert sorted(lost) == sorted(set(MAKERS) - {"normalization_given", "discretization"})


def on_branch(model, state):
    branched = mr.models.branch(model, at="hidden", branches=2)
    whole = mr.models.copy_model(model)
    for name in ("branch_0", "branch_1"):
        branched.heads[name].get_layer("logits").set_weights(
            model.get_layer("logits").get_weights()
        )
        np.testing.assert_array_equal(
            outputs(branched.students[name], state), outputs(whole, state)
        )
    return branched.students["branch_1"]


def imported(model, state):
    return mr.models.import_keras_weights(model=MAKERS[state](), source=model)


def mean_teacher(model, state):
    return mr.MeanTeacher(model).mean_teacher()


def mean_teacher_into(model, state):
    return mr.MeanTeacher(model).mean_teacher(into=MAKERS[state]())


def stated(model, state):
    other = MAKERS[state]()
    mr.models.copy_state(model, other)
    return other


@pytest.mark.parametrize(
    "copy",
    [
        lambda model, state: mr.models.copy_model(model),
        lambda model, state: mr.models.fold(model),
        stated,
        on_branch,
        imported,
        mean_teacher,
        mean_teacher_into,
    ],
    ids=["copy_model", "fold", "copy_state", "branch", "import", "mean_teacher", "into"],
)
@every_state
def test_a_copy_gives_the_same_outputs(copy, state):
    model = MAKERS[state]()
    expected, before = outputs(model, state), model.get_weights()
    copied = copy(model, state)
    assert copied is not model
    np.testing.assert_array_equal(outputs(copied, state), expected)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every_state
def test_a_fold_in_half_precision_keeps_the_state(dtype, state):
    model = MAKERS[state]()
    expected = outputs(model, state)
    folded = outputs(mr.models.fold(model, dtype=dtype), state)
    assert np.abs(folded - expected).max() <= 0.02 * np.abs(expected).max()


@every_state
def test_a_saved_model_gives_the_same_outputs(tmp_path, state):
    model = MAKERS[state]()
    served = tf.saved_model.load(str(mr.export.to_saved_model(model, tmp_path / "student")))
    (name,) = served.signatures["serving_default"].structured_input_signature[1]
    got = served.serve({name: MAKERS[state].data})["logits"].numpy()
    np.testing.assert_allclose(got, outputs(model, state), rtol=1e-5, atol=1e-6)


@every_state
def test_quantize_aware_copies_a_state_or_names_it(state):
    model = MAKERS[state]()
    if state.startswith("normalization") or state == "asset":
        expected = outputs(model, state)
        rounded = outputs(mr.quantize_aware(model), state)
        assert np.abs(rounded - expected).max() <= 0.02 * np.abs(expected).max()
        return
    with pytest.raises(ValueError, match="Received: the layer 'stateful' of type"):
        mr.quantize_aware(model)


def test_states_that_do_not_fit_are_named():
    one, other = MAKERS["normalization"](), MAKERS["normalization_given"]()
    with pytest.raises(ValueError, match=r"must have the layers of .*'stateful'.*in the place of"):
        mr.models.copy_state(one, other)
    third = OfNumbers(layers.Normalization, mean=[1, 2, 3, 5], variance=[1, 4, 9, 9])()
    with pytest.raises(ValueError, match=r"given statistics.*3.0, 5.0.*in the place of"):
        mr.models.copy_state(other, third)
    with pytest.raises(ValueError, match=r"source must have the layout.*given statistics"):
        mr.models.import_keras_weights(model=third, source=other)
    shorter = keras.Sequential([keras.Input((4,)), layers.Normalization()])
    with pytest.raises(ValueError, match=r"as many layers with a state as .*, 3. Received: 1"):
        mr.models.copy_state(one, shorter)
    with pytest.raises(TypeError, match="model must be a keras"):
        mr.models.copy_model(layers.Dense(2))


def test_tokens_with_line_breaks_and_tables_of_now_are_copied(tmp_path):
    tokens = np.array([["new\nline", "next\x85line"], ["a\u2028b", "c"]] * 2)
    layer = layers.StringLookup(vocabulary=["old"], name="stateful")
    layer.set_vocabulary(sorted(set(tokens.ravel().tolist())))
    inputs = keras.Input((2,), dtype="string")
    values = layers.Flatten()(layers.Embedding(9, 3)(layer(inputs)))
    model, data = keras.Model(inputs, end(values)), tf.constant(tokens.tolist())
    for copy in (mr.models.copy_model(model), mr.models.fold(model)):
        np.testing.assert_array_equal(copy(data), model(data))
    student = keras.Model(inputs, end(layers.Flatten()(layers.Embedding(9, 3)(layer(inputs)))))
    mr.Distiller(student=student, teacher=model, knowledge=[mr.Response("kd")]).save(
        tmp_path / "distiller.keras"
    )


def test_a_model_is_copied_as_what_it_is(random):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, inner, layers.Dense(2)], name="outer")
    model.compile("sgd", lambda y_true, y_pred: y_pred)
    copy = mr.models.copy_model(model, name="copy")
    assert (type(copy), copy.name, len(copy.layers)) == (keras.Sequential, "copy", 3)
    assert copy.layers[0] is copy.layers[1] is not inner
    assert copy.count_params() == model.count_params()
    np.testing.assert_array_equal(copy(NUMBERS), model(NUMBERS))
    assert not copy.compiled
    inner.trainable = False
    assert not mr.models.copy_model(model).layers[0].trainable_variables


def test_quantization_keeps_shared_layers_shared():
    dense = layers.Dense(4, name="shared")
    one, two = (keras.Sequential([keras.Input((4,)), dense], name=name) for name in ("one", "two"))
    inputs = keras.Input((4,))
    student = keras.Model(inputs, layers.Dense(2, name="logits")(two(one(inputs))))
    quantized = mr.quantize_aware(student)
    kernels = [quantized.get_layer(name).get_layer("shared").layer for name in ("one", "two")]
    assert kernels[0] is kernels[1]
    assert quantized.count_params() == pytest.approx(student.count_params(), abs=12)


@pytest.mark.parametrize("layer", [layers.Normalization, layers.Rescaling])
def test_load_teacher_brings_what_normalizes(tmp_path, layer, random):
    network = mr.models.get("convnet", num_classes=3, widths=(4, 8), input_shape=(8, 8, 3))
    images = random.uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    scale = layer(1 / 255) if layer is layers.Rescaling else layer()
    if layer is layers.Normalization:
        scale.adapt(images)
    inputs = keras.Input((8, 8, 3))
    trained = keras.Model(inputs, network(scale(inputs)))
    trained.save(tmp_path / "teacher.keras")
    loaded = mr.models.load_teacher(tmp_path / "teacher.keras", "convnet", widths=(4, 8))
    assert [one.name for one in loaded.layers][1] == layer.__name__.lower()
    np.testing.assert_allclose(loaded(images), trained(images), rtol=1e-5, atol=1e-6)
    plain = mr.models.load_teacher(
        tmp_path / "teacher.keras", "convnet", widths=(4, 8), normalized=True
    )
    np.testing.assert_allclose(plain(images), network(images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_networks_we_did_not_write_fold_with_their_normalization(random):
    network = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )
    images = random.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    (normalization,) = (one for one in network.layers if isinstance(one, layers.Normalization))
    normalization.adapt(images / 255)
    folded = mr.models.fold(network)
    np.testing.assert_allclose(folded(images), network(images), rtol=1e-3, atol=1e-4)


def test_a_quantized_model_is_copied_with_its_ranges(random):
    images = random.normal(size=(8, 4, 4, 3)).astype("float32")
    inputs = keras.Input((4, 4, 3))
    values = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs))
    student = keras.Model(inputs, layers.Dense(3)(values))
    quantized = mr.quantize_aware(student, representative=images)
    clone = keras.models.clone_model(quantized)
    mr.models.copy_state(quantized, clone)
    for copy in (mr.models.copy_model(quantized), clone):
        np.testing.assert_array_equal(copy(images), quantized(images))


@pytest.mark.parametrize("layer", [layers.Normalization, Derived, Asset])
def test_subclassed_models_are_copied_and_saved(tmp_path, layer):
    model = subclassed(layer())
    for copy in (mr.models.copy_model(model), mr.MeanTeacher(model).mean_teacher()):
        np.testing.assert_array_equal(copy(NUMBERS), model(NUMBERS))
    made = mr.Distiller(
        student=MAKERS["normalization"](), teacher=model, knowledge=[mr.Response("kd")]
    )
    made.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(loaded.teacher(NUMBERS), model(NUMBERS))


def test_assets_are_files_of_their_own(tmp_path):
    model = MAKERS["asset"]()
    files = copying.save_tables(model, tmp_path)
    (name,) = files
    assert pathlib.Path(name).name == "factor.txt"


def test_low_rank_weights_are_copied_and_not_added_to_the_kernel():
    """Keras would load zeros for both, which never train."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="convolution")(inputs)
    x = keras.layers.EinsumDense("abcd,de->abce", (6, 6, 5), bias_axes="e", name="einsum")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(x))
    for layer in model.layers[1:]:
        layer.enable_lora(2)
        last = next(v for v in layer.variables if v.name.endswith("_b"))
        last.assign(np.ones(last.shape))
    copy = mr.models.copy_model(model)
    for one, other in zip(model.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(one, other)
