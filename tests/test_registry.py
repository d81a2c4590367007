"""Tests of short identifiers: registering, listing, looking up, resolving."""

import sys
import types

import keras
import pytest

import modreduce_keras as mr
from modreduce_keras import registry

pytestmark = pytest.mark.usefixtures("scratch_registry")


def test_a_registered_class_is_listed_named_and_serializable():
    @mr.register("loss", "always_two")
    class AlwaysTwo(mr.losses.Loss):
        def per_sample(self, teacher, student, labels=None):
            return 2.0 * keras.ops.ones_like(student[:, 0])

    assert AlwaysTwo.identifier == "always_two"
    assert registry.components("loss")["always_two"] is AlwaysTwo
    assert type(mr.losses.get("always_two", name="two")).__name__ == "AlwaysTwo"
    config = keras.saving.serialize_keras_object(AlwaysTwo(name="two"))
    assert config["registered_name"] == "modreduce_keras>AlwaysTwo"
    again = mr.losses.get(config)
    assert (type(again), again.name) == (AlwaysTwo, "two")


def test_a_function_is_registered_as_it_is():
    def build(*, num_classes):
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(num_classes)])

    assert mr.register("model", "one_layer")(build) is build
    assert mr.models.get("one_layer", num_classes=4).output_shape == (None, 4)


def test_an_identifier_belongs_to_one_component_of_its_kind():
    with pytest.raises(ValueError, match=r"'kd' is already taken by .*response\.KD.* Choose"):

        @mr.register("loss", "kd")
        class Another(mr.losses.Loss):
            pass

    assert registry.components("loss")["kd"] is mr.losses.KD
    assert mr.register("adapter", "kd")(lambda: None) is registry.components("adapter")["kd"]


def test_a_class_may_be_defined_again_as_in_a_notebook():
    def define():
        @mr.register("aggregator", "again")
        class Again(mr.aggregators.Aggregator):
            pass

        return Again

    assert define() is not define()
    last = define()
    assert registry.components("aggregator")["again"] is last


def test_components_are_listed_in_alphabetical_order():
    mr.register("curve", "b")(test_components_are_listed_in_alphabetical_order)
    mr.register("curve", "a")(test_components_are_listed_in_alphabetical_order)
    assert list(registry.components("curve")) == ["a", "b"]
    assert registry.components("nothing_of_this_kind") == {}


@pytest.mark.parametrize(
    ("kind", "known"), [("loss", "'kd'"), ("model", "'resnet20'"), ("schedule", "'cosine'")]
)
def test_an_unknown_identifier_lists_the_known_ones(kind, known):
    with pytest.raises(ValueError, match=rf"Unknown {kind} identifier.*{known}.*Received: 'kdd'"):
        registry.get(kind, "kdd")


def test_instances_configs_and_identifiers_give_instances():
    loss = mr.losses.KD(temperature=2.0)
    assert mr.losses.get(loss) is loss
    assert float(mr.losses.get("kd", temperature=2.0).temperature) == 2.0
    config = keras.saving.serialize_keras_object(loss)
    assert float(mr.losses.get(config).temperature) == 2.0


@pytest.mark.parametrize("config", [False, True])
def test_arguments_go_with_an_identifier_only(config):
    loss = mr.losses.KD()
    given = keras.saving.serialize_keras_object(loss) if config else loss
    with pytest.raises(ValueError, match=r"go with an identifier only.*'temperature': 2.0"):
        mr.losses.get(given, temperature=2.0)


@pytest.mark.parametrize(
    ("get", "wrong", "expected"),
    [
        (mr.losses.get, 3.0, r"loss must be an instance of Loss, .*'kd'.*Received: 3.0"),
        (mr.losses.get, mr.losses.KD, r"loss must be an instance of Loss, .*Received: <class.*KD"),
        (mr.losses.get, keras.losses.MeanSquaredError(), "loss must be an instance of Loss"),
        (mr.adapters.get, None, "adapter must be an instance of Adapter, .*'conv_regressor'"),
        (
            mr.aggregators.get,
            mr.losses.KD(),
            "aggregator must be an instance of Aggregator, .*'mean'",
        ),
        (mr.schedules.get, 0.5, "schedule must be an instance of Schedule, .*'cosine'"),
        (mr.models.get, 3, "model must be an instance of Model, .*'convnet'"),
    ],
)
def test_what_is_no_component_of_the_kind_is_refused(get, wrong, expected):
    with pytest.raises(TypeError, match=expected):
        get(wrong)


def test_a_config_of_another_kind_is_refused():
    config = keras.saving.serialize_keras_object(mr.schedules.Constant(1.0))
    with pytest.raises(TypeError, match="loss must be an instance of Loss"):
        mr.losses.get(config)


def test_a_choice_of_bases_is_named_by_the_kind():
    with pytest.raises(TypeError, match="loss must be an instance of loss, its config"):
        registry.get("loss", 3, base=(mr.losses.KD, mr.losses.Hint))


def test_collect_imports_every_module_and_returns_what_it_defines(tmp_path, monkeypatch):
    (tmp_path / "first.py").write_text(
        "from modreduce_keras.registry import register\n"
        "@register('curve', 'inside')\n"
        "def inside(): pass\n"
    )
    package = types.ModuleType("a_package")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "a_package", package)
    mr.register("curve", "outside")(test_components_are_listed_in_alphabetical_order)
    collected = registry.collect("a_package", package.__path__, "curve")
    del sys.modules["a_package.first"]
    assert [*collected] == ["inside"]
    assert [*registry.components("curve")] == ["inside", "outside"]


@pytest.mark.parametrize(
    ("package", "kind"),
    [("losses", "loss"), ("adapters", "adapter"), ("aggregators", "aggregator")],
)
def test_a_package_exports_every_component_of_its_kind(package, kind):
    module = getattr(mr, package)
    for component in registry.components(kind).values():
        assert getattr(module, component.__name__) is component
        assert component.__name__ in module.__all__
