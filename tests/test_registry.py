"""Tests of short identifiers: registering, listing, looking up, resolving."""

import subprocess
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
    name = "test_a_registered_class_is_listed_named_and_serializable.AlwaysTwo"
    assert config["registered_name"] == f"{__name__.partition('.')[0]}>{name}"
    again = mr.losses.get(config)
    assert (type(again), again.name) == (AlwaysTwo, "two")


def test_a_function_is_registered_as_it_is():
    def build(*, num_classes):
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(num_classes)])

    assert mr.register("model", "one_layer")(build) is build
    assert mr.models.get("one_layer", num_classes=4).output_shape == (None, 4)


def test_an_identifier_belongs_to_one_component_of_its_kind():
    with pytest.raises(ValueError, match=r"'kd' is already taken by .*kd\.KD.* Choose"):

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


NOTEBOOK = """
import sys
import keras, numpy as np, modreduce_keras as mr

CELL = '''
@mr.register("loss", "mine")
class KD(mr.losses.Loss):
    def per_sample(self, teacher, student, labels=None):
        return 2.0 * keras.ops.ones_like(student[:, 0])
'''
exec(CELL)
exec(CELL)  # the same cell once more


def net(width):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(width), keras.layers.Dense(2)])


def term(loss, path):
    response = mr.Response(loss, name="term")
    distiller = mr.Distiller(student=net(2), teacher=net(4), knowledge=[response])
    distiller.compile("sgd", "mse")
    distiller.save(path)
    (knowledge,) = keras.saving.load_model(path).knowledge["student"]
    return type(knowledge.loss)

folder = sys.argv[1]
assert mr.losses.get("kd").__class__ is mr.losses.KD is not KD
assert keras.saving.get_registered_object("modreduce_keras>KD") is mr.losses.KD
assert term("mine", folder + "/mine.keras") is KD
assert term("kd", folder + "/ours.keras") is mr.losses.KD
print(keras.saving.get_registered_name(KD))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_a_class_named_as_one_of_ours_replaces_nothing_and_comes_back_from_files(tmp_path, kind):
    script = tmp_path / "my_project.py"
    script.write_text(NOTEBOOK)
    command = [script] if kind == "script" else ["-c", NOTEBOOK]
    run = subprocess.run(
        [sys.executable, *command, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ("my_project>KD" if kind == "script" else "__main__>KD")


def test_a_class_of_the_same_name_elsewhere_takes_no_identifier_of_ours():
    mine = type("KD", (mr.losses.Loss,), {"__module__": "my_project.losses"})
    assert mine.__qualname__ == mr.losses.KD.__qualname__
    with pytest.raises(ValueError, match=r"'kd' is already taken by .*Received: my_project.*KD"):
        mr.register("loss", "kd")(mine)
    mr.register("loss", "my_kd")(mine)
    assert registry.components("loss")["kd"] is mr.losses.KD
    assert keras.saving.get_registered_name(mine) == "my_project>KD"
    assert keras.saving.get_registered_object("modreduce_keras>KD") is mr.losses.KD


def test_two_classes_of_one_name_in_one_package_are_told_apart():
    def define(module, identifier):
        loss = type("Same", (mr.losses.Loss,), {"__module__": f"another_project.{module}"})
        return mr.register("loss", identifier)(loss)

    first = define("a", "same_a")
    with pytest.raises(
        ValueError, match=r"another_project>Same.*taken by another_project\.a\.Same"
    ):
        define("b", "same_b")
    assert keras.saving.get_registered_object("another_project>Same") is first
    assert "same_b" not in registry.components("loss")
    assert define("a", "same_a") is registry.components("loss")["same_a"] is not first


def test_a_name_that_keras_knows_already_stays():
    @mr.register("loss", "known")
    @keras.saving.register_keras_serializable(package="chosen", name="known_name")
    class Known(mr.losses.Loss):
        pass

    assert keras.saving.get_registered_name(Known) == "chosen>known_name"


def test_a_class_has_one_identifier():
    with pytest.raises(ValueError, match=r"KD is registered as 'kd' already. Register a subclass"):
        mr.register("loss", "second")(mr.losses.KD)
    assert mr.losses.KD.identifier == "kd"
    mr.register("loss", "second")(type("Second", (mr.losses.KD,), {"__module__": "my_project"}))
    assert mr.losses.get("second").identifier == "second"


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
