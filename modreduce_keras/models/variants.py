"""Networks of one family under their own names, such as resnet20 of resnet."""

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import keras

from modreduce_keras.registry import register

Arguments = ParamSpec("Arguments")


def variant(
    identifier: str,
    family: Callable[Concatenate[int, Arguments], keras.Model],
    depth: int,
    **defaults: Any,
) -> Callable[Arguments, keras.Model]:
    """Registers and returns a function that builds one network of a family.

    Args:
        identifier: The name of the network.
        family: The function that builds networks of the family from their depth.
        depth: The depth of this one.
        **defaults: What it has instead of the family's defaults.
    """

    def build(*args: Arguments.args, **kwargs: Arguments.kwargs) -> keras.Model:
        return family(depth, *args, **{**defaults, **kwargs})

    called = ", ".join(
        [str(depth), *(f"{key}={value}" for key, value in defaults.items() if key != "name"), "..."]
    )
    build.__name__ = build.__qualname__ = identifier
    build.__module__ = family.__module__
    build.__doc__ = f"Builds {identifier}: `{family.__name__}({called})`."
    signature = inspect.signature(family)
    parameters = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in list(signature.parameters.values())[1:]
    ]
    vars(build)["__signature__"] = signature.replace(parameters=parameters)
    return register("model", identifier)(build)
