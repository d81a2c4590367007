"""TFLite files: every kind of student becomes one that LiteRT runs, and nothing else does."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.exporting import CLASSES, CLOSE, assert_exports, convnet, images


class Subclassed(keras.Model):
    """A model whose layers cannot be taken apart."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.hidden = layers.Dense(8, activation="relu")
        self.norm = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.5)
        self.head = layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        hidden = self.norm(self.hidden(inputs), training=training)
        return self.head(self.dropout(hidden, training=training))


class WithoutTraining(keras.Model):
    """A model whose `call` takes the inputs alone."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(CLASSES)

    def call(self, inputs):
        return self.head(keras.ops.mean(inputs, axis=(1, 2)))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES),
        ]
    )


def with_lambda():
    inputs = keras.Input((8, 8, 1))
    doubled = layers.Lambda(lambda tensor: 2.0 * tensor)(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(doubled))


def branch():
    return mr.models.branch(convnet(), at="stage1", branches=2).students["branch_1"]


def exit_model():
    return mr.SelfDistiller(convnet(), exits=["stage1"]).exit_model("stage1")


KINDS = {
    "convnet": convnet,
    "branch": branch,
    "early exit": exit_model,
    "folded": lambda: mr.models.fold(convnet()),
    "Sequential": sequential,
    "not to be rebuilt": with_lambda,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_student_exports(kind, tmp_path, settled, random):
    assert_exports(tmp_path, settled(KINDS[kind]()), images(random))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_student_in_mixed_precision_exports_in_float32(policy, tmp_path, settled, random):
    twin = settled(convnet())
    try:
        keras.config.set_dtype_policy(policy)
        student = convnet()
    finally:
        keras.config.set_dtype_policy("float32")
    student.set_weights(twin.get_weights())
    data = images(random)
    path = mr.export.to_tflite(student, tmp_path / "student.tflite")
    full = mr.export.verify(path, twin, data, repeats=1)
    own = mr.export.verify(path, student, data, repeats=1, least_agreement=0.0)
    assert full.largest_difference < CLOSE < own.largest_difference


def test_a_subclassed_student_exports_as_it_is(tmp_path, settled, random):
    student = Subclassed()
    student(np.ones((2, 5), "float32"))
    assert_exports(tmp_path, settled(student), random.normal(size=(20, 5)))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (mr.export.to_tflite, "student.tflite"),
        (mr.export.to_saved_model, "student"),
        (mr.export.to_onnx, "student.onnx"),
    ],
    ids=["tflite", "saved_model", "onnx"],
)
def test_a_student_whose_call_takes_no_training_exports(write, name, tmp_path, random):
    student, data = WithoutTraining(), images(random)
    student(data[:2])
    path = write(student, tmp_path / name)
    assert mr.export.verify(path, student, data, repeats=1).largest_difference < CLOSE
    labels = np.arange(len(data)) % CLASSES
    mr.report(
        teacher=None,
        students=student,
        exports={},
        data=(data, labels),
        path=tmp_path / "report",
        repeats=1,
    )


def test_a_subclassed_student_in_low_precision_is_refused(tmp_path):
    student = Subclassed(dtype="float16")
    for layer in (student.hidden, student.norm, student.head):
        layer.dtype_policy = keras.DTypePolicy("mixed_float16")
    student(np.ones((2, 5), "float32"))
    with pytest.raises(ValueError, match=r"in float32.*dtype='float32'.*Received.*\['float16'\]"):
        mr.export.to_tflite(student, tmp_path / "student.tflite")
    assert not list(tmp_path.iterdir())


def test_inputs_keep_their_names(tmp_path, settled, random):
    from ai_edge_litert.interpreter import Interpreter

    parts = {"right side": keras.Input((3,), name="right side"), "2": keras.Input((4,), name="2")}
    both = layers.Concatenate()([layers.Dense(5)(parts["2"]), parts["right side"]])
    student = settled(keras.Model(parts, layers.Dense(CLASSES)(both)))
    data = {"2": random.normal(size=(9, 4)), "right side": random.normal(size=(9, 3))}
    assert_exports(tmp_path, student, data)
    run = Interpreter(str(tmp_path / "student.tflite")).get_signature_runner("serving_default")
    assert set(run.get_input_details()) == {"right_side", "input_2"}
    arrays = {name: array.astype("float32") for name, array in data.items()}
    logits = run(right_side=arrays["right side"], input_2=arrays["2"])["logits"]
    np.testing.assert_allclose(logits, student(arrays), atol=1e-5)


def test_inputs_in_a_list(tmp_path, settled, random):
    parts = [keras.Input((3,), name="one"), keras.Input((3,), name="two")]
    difference = layers.Subtract()(parts)
    student = settled(keras.Model(parts, layers.Dense(CLASSES)(difference)))
    assert_exports(tmp_path, student, [random.normal(size=(9, 3)) for _ in range(2)])


def test_a_fixed_number_of_samples(tmp_path, settled, random):
    inputs = keras.Input(batch_shape=(8, 5))
    student = settled(keras.Model(inputs, layers.Dense(CLASSES)(inputs)))
    assert_exports(tmp_path, student, random.normal(size=(24, 5)), batch_size=8)


def test_an_interpreter_that_is_not_told_otherwise_takes_one_sample(tmp_path, settled, random):
    from ai_edge_litert.interpreter import Interpreter

    student, image = settled(convnet()), images(random, 1)
    path = mr.export.to_tflite(student, str(tmp_path / "student.tflite"))
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(logits, student(image, training=False), atol=1e-5)


def test_nothing_is_left_of_training(tmp_path, settled):
    student = settled(convnet())
    weights = [variable.numpy() for variable in student.variables]
    mr.export.to_tflite(student, tmp_path / "student.tflite")
    for variable, value in zip(student.variables, weights, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert student.trainable_variables


# What is refused


@pytest.fixture
def refused(tmp_path):
    """Asserts that an export is refused with a message, and leaves nothing behind."""

    def refuse(student, match, error=ValueError, name="student.tflite", **arguments):
        with pytest.raises(error, match=match):
            mr.export.to_tflite(student, tmp_path / name, **arguments)
        assert not list(tmp_path.iterdir())

    return refuse


def test_a_distiller_is_refused_with_its_student(refused):
    teacher = convnet(name="teacher")
    distiller = mr.Distiller(student=convnet(), teacher=teacher, knowledge=[mr.Response("kd")])
    refused(distiller, r"export distiller\.student\. Received: Distiller")


def test_a_group_is_refused_with_its_students(refused):
    group = mr.PeerDistiller({"small": convnet(), "large": convnet(widths=(6, 6))})
    refused(group, r"distiller\.students\['small'\] or distiller\.students\['large'\]")


def test_a_branched_model_is_refused_with_its_students(refused):
    branches = mr.models.branch(convnet(), at="stage1", branches=2)
    refused(branches, r"branches\.students\['branch_0'\] or branches\.students\['branch_1'\]")


def test_a_network_that_is_its_own_teacher_is_refused_with_its_exits(refused):
    distiller = mr.SelfDistiller(convnet(), exits=["stage1"])
    refused(distiller, r"distiller\.student, or.*distiller\.exit_model\('stage1'\)")
    refused(distiller.model_with_exits, r"one output.*distiller\.exit_model\('NAME'\).*\(None, 4\)")


class FirstOutput(keras.Model):
    """A functional model of several outputs, of which a call gives the first."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training)[0]


def test_outputs_are_those_of_a_call(refused, tmp_path):
    inputs = keras.Input((6,))
    outputs = [layers.Dense(CLASSES)(inputs), layers.Dense(3)(inputs)]
    refused(keras.Model(inputs, outputs), r"one output.*\[\(None, 4\), \(None, 3\)\]")
    samples = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    assert_exports(tmp_path, FirstOutput(inputs, outputs), samples)


def test_operations_that_tflite_lacks_are_refused_with_the_remedy(refused):
    inputs = keras.Input((None, 3))
    lstm = keras.Model(inputs, layers.Dense(CLASSES)(layers.LSTM(4, name="recurrent")(inputs)))
    refused(lstm, r"lacks: {'recurrent': \['TensorListReserve'\]}.*unroll=True.*to_saved_model")
    inputs = keras.Input((3,))
    erfinv = keras.Model(inputs, layers.Dense(CLASSES)(keras.ops.erfinv(inputs)))
    refused(erfinv, r"lacks: {'erfinv.*': \['Erfinv'\]}.*Flex.*do not have: replace them by")


class Places(layers.Layer):
    """Adds something to each token that depends on their number alone."""

    def call(self, inputs):
        places = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="float32")
        return inputs + keras.ops.erfinv(places / 1000.0)[:, None]


def test_what_depends_on_open_sizes_is_refused_with_the_remedy_that_works(refused, tmp_path):
    inputs = keras.Input((None, 3))
    tokens = layers.GlobalAveragePooling1D()(Places(name="places")(inputs))
    student = keras.Model(inputs, layers.Dense(CLASSES)(tokens))
    refused(student, r"lacks: {'places'.*give inputs known sizes.*x = keras.Input\(\(128, 3\)\)")
    x = keras.Input((5, 3))
    known = keras.Model(x, student(x))
    path = mr.export.to_tflite(known, tmp_path / "known.tflite")
    samples = np.random.default_rng(0).normal(size=(20, 5, 3)).astype("float32")
    assert mr.export.verify(path, known, samples).largest_difference < 1e-5


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_a_student_that_keras_quantized_is_refused(refused):
    inputs = keras.Input((5,))
    student = keras.Model(inputs, layers.Dense(CLASSES, name="head")(inputs))
    student.quantize("int8")
    refused(student, r"quantization='int8'.*Received.*\['head'\]")


def test_an_unbuilt_student_is_refused(refused):
    refused(Subclassed(), r"must be built: start it with keras\.Input")


@pytest.mark.parametrize("student", [None, "student.keras", layers.Dense(3)])
def test_other_things_are_refused(student, refused):
    refused(student, r"student must be a keras\.Model\..*Received", TypeError)


@pytest.mark.parametrize("name", ["student", "student.lite", "student.keras"])
def test_a_path_says_what_the_file_is(name, refused):
    refused(convnet(), r"path must be a file that ends in '\.tflite'. Received", name=name)


def test_a_folder_that_is_missing(refused):
    refused(
        convnet(), "folder that exists.*no .*missing", FileNotFoundError, name="missing/a.tflite"
    )


def test_a_path_is_text_or_a_path():
    with pytest.raises(TypeError, match=r"path must be a string or a pathlib\.Path"):
        mr.export.to_tflite(convnet(), 3)


def test_quantizations_have_names(refused):
    choices = r"quantization must be one of \['float16', 'dynamic', 'int8'\]. Received"
    refused(convnet(), choices, quantization="int4")
    refused(convnet(), choices, quantization=8)


# What is there already


def test_a_file_is_replaced_once_the_new_one_is_complete(tmp_path, settled, random, monkeypatch):
    path, data = tmp_path / "student.tflite", images(random)
    old, new = settled(convnet()), settled(convnet())
    mr.export.to_tflite(old, path)
    content = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr("os.fsync", raise_disk_full)
        mr.export.to_tflite(new, path)
    assert path.read_bytes() == content
    assert_exports(tmp_path, new, data)


def raise_disk_full(_):
    raise OSError("disk full")
