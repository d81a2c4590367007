"""The config of a component holds every argument of its constructor, whatever its value."""

import inspect

import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.inputs.method_examples import example_arguments

NAMESPACES = {
    "loss": mr.losses,
    "adapter": mr.adapters,
    "aggregator": mr.aggregators,
    "schedule": mr.schedules,
}
EVERY = [(kind, identifier) for kind in NAMESPACES for identifier in components(kind)]


def made(kind, identifier, **arguments):
    return NAMESPACES[kind].get(identifier, **{**example_arguments(kind, identifier), **arguments})


def parameters(kind, identifier):
    """Returns the parameters of a component's constructor by name."""
    signature = inspect.signature(components(kind)[identifier])
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }


@pytest.mark.parametrize(("kind", "identifier"), EVERY)
def test_every_argument_is_there(kind, identifier):
    assert set(parameters(kind, identifier)) <= set(made(kind, identifier).get_config())


@pytest.mark.parametrize(("kind", "identifier"), EVERY)
def test_the_other_value_of_a_flag_is_kept(kind, identifier):
    for name, parameter in parameters(kind, identifier).items():
        if isinstance(parameter.default, bool):
            config = made(kind, identifier, **{name: not parameter.default}).get_config()
            assert config[name] is not parameter.default, name
