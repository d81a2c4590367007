"""Symbolic runs of layers, with errors for users instead of advice to authors of layers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from modreduce_keras.held import Held


def output_spec(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    """Returns a layer's symbolic output, as `compute_output_spec` does.

    Raises:
        Exception: What the layer itself raised.
    """
    with plain_errors():
        return layer.compute_output_spec(*args, **kwargs)


def spec_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns the symbolic output of a function of tensors, such as a model, without computing."""
    return output_spec(_Function(function), *args, **kwargs)


class _Function(keras.layers.Layer):
    """Lets Keras run a function symbolically, on inputs of any dtype."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.function = Held(function)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.function()(*args, **kwargs)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises what a layer raised in a symbolic run, without what Keras writes around it."""
    try:
        yield
    except Exception as error:
        original = unwrapped(error)
        if original is error:
            raise
        raise original from original.__cause__


def unwrapped(error: BaseException) -> BaseException:
    """Returns the error that Keras has raised again, with text of its own before the message."""
    inner = error.__context__
    raised_again = error.__suppress_context__ and error.__cause__ is None and inner is not None
    if raised_again and type(inner) is type(error) and str(inner) in str(error):
        return unwrapped(inner)
    return error
