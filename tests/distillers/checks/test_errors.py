"""Bad input: each mistake gets an error of its own, early, that says what would be right."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def kd():
    return mr.Response("kd")


def dense_net(width=4, num_classes=3, activation=None, name=None):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(width, name="hidden")(inputs)
    outputs = keras.layers.Dense(num_classes, activation=activation, name="head")(hidden)
    return keras.Model(inputs, outputs, name=name)


def softmax_in_a_layer():
    model = dense_net()
    return keras.Model(model.inputs, keras.layers.Softmax()(model.output), name="layered")


def softmax_behind_a_cast():
    model = dense_net(activation="softmax")
    output = keras.layers.Activation("linear", dtype="float32")(model.output)
    return keras.Model(model.inputs, output, name="cast")


def softmax_by_an_operation():
    model = dense_net()
    return keras.Model(model.inputs, keras.ops.softmax(model.output), name="operation")


def softmax_in_a_nested_model():
    inner = dense_net(activation="softmax", name="inner")
    return keras.Sequential([keras.Input((4,)), inner], name="nested")


class Subclassed(keras.Model):
    def __init__(self, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.head = keras.layers.Dense(3, activation=activation, name="head")

    def call(self, inputs):
        return self.head(inputs)


def softmax_in_a_subclass():
    model = Subclassed("softmax", name="subclassed")
    model(np.ones((1, 4), "float32"))
    return model


SOFTMAX_HEADS = [
    lambda: dense_net(activation="softmax"),
    lambda: dense_net(activation="sigmoid"),
    softmax_in_a_layer,
    softmax_behind_a_cast,
    softmax_by_an_operation,
    softmax_in_a_nested_model,
    softmax_in_a_subclass,
]


@pytest.mark.parametrize("head", SOFTMAX_HEADS)
def test_probabilities_where_logits_are_needed(head, kd):
    with pytest.raises(ValueError, match=r"The teacher .* ends in a softmax or sigmoid"):
        mr.Distiller(student=dense_net(), teacher=head(), knowledge=[kd])
    with pytest.raises(ValueError, match=r"The student 'student' .* ends in a softmax"):
        mr.Distiller(student=head(), teacher=dense_net(), knowledge=[mr.Response("kd")])


def test_probabilities_among_peers():
    with pytest.raises(ValueError, match=r"student 'b' .* softmax"):
        mr.PeerDistiller({"a": dense_net(), "b": dense_net(activation="softmax")})


def test_probabilities_are_fine_where_no_logits_are_compared():
    student, teacher = dense_net(activation="softmax"), dense_net(activation="softmax")
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Relation("rkd_distance", at="hidden")]
    )
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"ends in probabilities, but .* expects logits"):
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.categorical_crossentropy,
    ],
)
def test_loss_on_probabilities_for_a_student_that_gives_logits(loss, kd):
    distiller = mr.Distiller(student=dense_net(), teacher=dense_net(), knowledge=[kd])
    with pytest.raises(ValueError, match=r"ends in logits, but .*\(from_logits=True\)"):
        distiller.compile("sgd", loss)


def test_unknown_identifiers_list_the_known():
    with pytest.raises(ValueError, match=r"Unknown loss .*'hint'.*'kd'.* Received: 'kdd'"):
        mr.Response("kdd")
    with pytest.raises(ValueError, match=r"Unknown aggregator .*'mean', 'mutual'"):
        mr.PeerDistiller({"a": dense_net(), "b": dense_net()}, aggregator="median")
    with pytest.raises(ValueError, match=r"Unknown adapter .*'conv_regressor'"):
        mr.Feature("hint", at="hidden", adapter="conv")
    with pytest.raises(ValueError, match=r"Unknown schedule .*'cosine'"):
        mr.Response("kd", weight="cosin")


def test_something_else_than_a_component():
    with pytest.raises(TypeError, match=r"loss must be an instance of Loss, its config, or one"):
        mr.Response(keras.metrics.MeanSquaredError())
    with pytest.raises(TypeError, match=r"aggregator must be an instance of Aggregator"):
        mr.PeerDistiller({"a": dense_net(), "b": dense_net()}, aggregator=mr.aggregators.Mean)


def test_unknown_tap_of_student_and_of_teacher():
    with pytest.raises(ValueError, match=r"Unknown tap 'stage1' of the student 'student'.*'head'"):
        mr.Distiller(
            student=dense_net(),
            teacher=dense_net(),
            knowledge=[mr.Relation("rkd_angle", student="stage1", teacher="hidden")],
        )
    with pytest.raises(ValueError, match=r"Unknown tap 'hiden' of the teacher.*mean 'hidden'"):
        mr.Distiller(
            student=dense_net(),
            teacher=dense_net(),
            knowledge=[mr.Relation("rkd_angle", student="hidden", teacher="hiden")],
        )


def test_different_numbers_of_classes(kd):
    with pytest.raises(ValueError, match=r"a student with 3 and a teacher with 10"):
        mr.Distiller(student=dense_net(), teacher=dense_net(num_classes=10), knowledge=[kd])
    with pytest.raises(ValueError, match=r"'a' with 3, 'b' with 4"):
        mr.PeerDistiller({"a": dense_net(), "b": dense_net(num_classes=4)})
    mr.Distiller(
        student=dense_net(),
        teacher=dense_net(num_classes=10),
        knowledge=[mr.Relation("rkd_distance", at="hidden")],
    )


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), None, [4.0], True])
def test_temperatures_that_make_no_sense(value):
    with pytest.raises(ValueError, match=r"temperature of KD must be a positive number"):
        mr.losses.KD(temperature=value)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "x", [1.0]])
def test_weights_that_make_no_sense(value):
    expected = r"weight of Response must be a number that is not negative|Unknown schedule"
    with pytest.raises(ValueError, match=expected):
        mr.Response("kd", weight=value)
    with pytest.raises(ValueError, match=r"supervised_weight of Distiller|Unknown schedule"):
        mr.Distiller(
            student=dense_net(),
            teacher=dense_net(),
            knowledge=[mr.Response()],
            supervised_weight=value,
        )
    with pytest.raises(ValueError, match=r"online_weight of PeerDistiller|Unknown schedule"):
        mr.PeerDistiller({"a": dense_net(), "b": dense_net()}, online_weight=value)


def test_too_few_peers():
    with pytest.raises(ValueError, match=r"at least two students .* Received: \['a'\]"):
        mr.PeerDistiller({"a": dense_net()})
    with pytest.raises(ValueError, match=r"at least two students"):
        mr.PeerDistiller([])


def test_duplicate_student_names():
    twins = [dense_net(name="twin"), dense_net(name="twin")]
    with pytest.raises(ValueError, match=r"Received twice: \['twin'\]"):
        mr.PeerDistiller(twins)


@pytest.mark.parametrize("name", ["a/b", "ensemble", "aggregator", ""])
def test_names_that_logs_cannot_carry(name):
    with pytest.raises(ValueError, match="must not contain '/' or be"):
        mr.PeerDistiller({name: dense_net(), "b": dense_net()})


def test_the_same_model_twice(kd):
    model = dense_net(name="same")
    with pytest.raises(ValueError, match=r"student 'student' and teacher are the same model"):
        mr.Distiller(student=model, teacher=model, knowledge=[kd])
    with pytest.raises(ValueError, match=r"student 'a' and student 'b' are the same model"):
        mr.PeerDistiller({"a": model, "b": model})


def test_not_a_model(kd):
    with pytest.raises(TypeError, match=r"The teacher must be a keras.Model.* Received: 'resnet'"):
        mr.Distiller(student=dense_net(), teacher="resnet", knowledge=[kd])


def test_unbuilt_models(kd):
    def unbuilt():
        return keras.Sequential([keras.layers.Dense(4, name="hidden"), keras.layers.Dense(3)])

    with pytest.raises(ValueError, match=r"is not built, .* keras.Input\(shape\)"):
        mr.Distiller(student=unbuilt(), teacher=unbuilt(), knowledge=[kd])
    with pytest.raises(ValueError, match=r"The student 'student' .* Building it failed with"):
        wrong = keras.Sequential([keras.layers.Conv2D(3, 3)])
        mr.Distiller(student=wrong, teacher=dense_net(), knowledge=[kd])
    student = unbuilt()
    mr.Distiller(student=student, teacher=dense_net(), knowledge=[kd])
    assert student.input_shape == (None, 4)


def test_subclassed_models_are_built_for_the_teachers_inputs():
    student = Subclassed()
    distiller = mr.Distiller(
        student=student,
        teacher=dense_net(),
        knowledge=[mr.Relation("rkd_angle", student="head", teacher="hidden")],
    )
    assert student.built
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    logs = distiller.train_on_batch(x, np.arange(6) % 3, return_dict=True)
    assert logs["rkd_angle"] > 0


@pytest.mark.parametrize("knowledge", [[], {}, ()])
def test_empty_knowledge(knowledge):
    with pytest.raises(ValueError, match=r"at least one knowledge, such as mr.Response"):
        mr.Distiller(student=dense_net(), teacher=dense_net(), knowledge=knowledge)


@pytest.mark.parametrize("wrong", [4.0, keras.metrics.Mean(), {"student": ["kd"]}])
def test_something_else_than_knowledge(wrong):
    expected = r"knowledge must be mr.Response, .* Received: "
    with pytest.raises(TypeError, match=expected):
        mr.Distiller(student=dense_net(), teacher=dense_net(), knowledge=wrong)
    with pytest.raises(TypeError, match=expected):
        mr.ModReduce(
            teacher=dense_net(),
            students={"a": dense_net(), "b": dense_net()},
            knowledge={"a": [wrong]},
        )


def test_teacher_and_knowledge_come_together(kd):
    students = {"a": dense_net(), "b": dense_net()}
    with pytest.raises(ValueError, match=r"A teacher and what it teaches come together"):
        mr.PeerDistiller(students, teacher=dense_net())
    with pytest.raises(ValueError, match=r"A teacher and what it teaches come together"):
        mr.PeerDistiller(students, knowledge={"a": [kd]})
    with pytest.raises(ValueError, match=r"knowledge must be given by student"):
        mr.PeerDistiller(students, teacher=dense_net(), knowledge={"c": [kd]})
    with pytest.raises(ValueError, match=r"knowledge objects of its own"):
        mr.PeerDistiller(students, teacher=dense_net(), knowledge={"a": [kd], "b": [kd]})
    with pytest.raises(ValueError, match=r"A teacher and what it teaches come together"):
        mr.Distiller(student=dense_net(), teacher=None, knowledge=[kd])


def test_two_terms_of_one_name(kd):
    with pytest.raises(ValueError, match=r"several named \['kd'\]"):
        mr.Distiller(student=dense_net(), teacher=dense_net(), knowledge=[kd, mr.Response("kd")])


def test_shapes_that_do_not_fit_are_an_error_of_the_constructor():
    hint = mr.Feature("hint", at="hidden", adapter=None)
    with pytest.raises(ValueError, match=r"Hint needs features of equal rank and number"):
        mr.Distiller(student=dense_net(4), teacher=dense_net(5), knowledge=[hint])


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_images(dtype, distiller, images, labels):
    integers = (images * 10).astype(dtype)
    for run in (
        lambda: distiller.train_on_batch(integers, labels),
        lambda: distiller.evaluate(integers, labels, verbose=0),
        lambda: distiller.predict(integers, verbose=0),
    ):
        with pytest.raises(ValueError, match=f"take float inputs. Received: x of dtype {dtype}"):
            run()


def test_a_loss_without_labels(distiller, images):
    with pytest.raises(ValueError, match=r"A loss is compiled, but the data have no labels"):
        distiller.train_on_batch(images)


def test_models_with_several_outputs(kd):
    model = dense_net()
    double = keras.Model(model.inputs, [model.output, model.get_layer("hidden").output])
    with pytest.raises(ValueError, match=r"must have one output .*\(None, 3\), \(None, 4\)"):
        mr.Distiller(student=dense_net(), teacher=double, knowledge=[kd])


def test_multipliers(net, teacher):
    def build(multipliers):
        mr.ModReduce(
            teacher=teacher,
            students={"a": net(), "b": net()},
            knowledge={"a": [mr.Response()]},
            multipliers=multipliers,
        )

    with pytest.raises(ValueError, match=r"multipliers must be positive numbers by student"):
        build({"c": 1.0})
    with pytest.raises(ValueError, match=r"multipliers must be positive numbers by student"):
        build({"a": 0.0})


def test_online_weight_of_modreduce_above_one(net, teacher):
    with pytest.raises(ValueError, match=r"from 0 to 1, .* Received: online_weight=1.5"):
        mr.ModReduce(
            teacher=teacher,
            students={"a": net(), "b": net()},
            knowledge={"a": [mr.Response()]},
            online_weight=1.5,
        )


def test_one_logit_has_no_distribution_to_teach():
    """The softmax of a single logit is 1 whatever it is, so KD would be 0 in silence."""
    with pytest.raises(ValueError, match=r"KD needs logits .* at least two classes"):
        mr.Distiller(
            student=dense_net(num_classes=1),
            teacher=dense_net(num_classes=1),
            knowledge=[mr.Response("kd")],
        )
    with pytest.raises(ValueError, match=r"KD needs logits .* at least two classes"):
        mr.PeerDistiller(
            {"a": dense_net(num_classes=1), "b": dense_net(num_classes=1)}, online_loss="kd"
        )
    mr.Distiller(
        student=dense_net(num_classes=1),
        teacher=dense_net(num_classes=1),
        knowledge=[mr.Response("logit_mse")],
    )
