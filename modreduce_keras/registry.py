"""Short identifiers: one decorator that names, lists and makes every component serializable.

A component (loss, adapter, aggregator, schedule, ...) is registered under its kind and a short
identifier. Whatever takes a component takes an instance, a config or that identifier, and turns
it into an instance with `get`. Lists of components are always derived from here.
"""

import copy
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import keras

PACKAGE = "modreduce_keras"

_components: dict[str, dict[str, Any]] = {}


def register(kind: str, identifier: str) -> Callable[[Any], Any]:
    """Registers a class (or a function that builds a model) under a short identifier.

    Classes become serializable by Keras as `modreduce_keras>ClassName` and receive the class
    attribute `identifier`.

    Args:
        kind: The kind of component: `"loss"`, `"adapter"`, `"aggregator"`, `"schedule"`,
            `"knowledge"`, `"model"`, `"distiller"`.
        identifier: The paper's short name in lower case, unique within its kind.

    Returns:
        A decorator that returns what it decorates.

    Raises:
        ValueError: If the identifier is already taken by something else.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> @mr.register("aggregator", "first_peer")
        ... class FirstPeer(mr.aggregators.Aggregator):
        ...     def call(self, logits):
        ...         return self.same_for_all(logits[:, 0], logits)
        >>> type(mr.aggregators.get("first_peer")).__name__
        'FirstPeer'
    """

    def decorate(component):
        taken = _components.setdefault(kind, {}).get(identifier)
        if taken is not None and taken.__qualname__ != component.__qualname__:
            raise ValueError(
                f"The {kind} identifier {identifier!r} is already taken by "
                f"{taken.__module__}.{taken.__qualname__}. Choose another one."
            )
        if isinstance(component, type):
            component.identifier = identifier
            component = keras.saving.register_keras_serializable(package=PACKAGE)(component)
        _components[kind][identifier] = component
        return component

    return decorate


def components(kind: str) -> dict[str, Any]:
    """Returns every component of a kind by its identifier, in alphabetical order."""
    return dict(sorted(_components.get(kind, {}).items()))


def lookup(kind: str, identifier: str) -> Any:
    """Returns the class or builder registered under an identifier.

    Raises:
        ValueError: If the identifier is unknown; the message lists the known ones.
    """
    known = components(kind)
    if identifier not in known:
        raise ValueError(
            f"Unknown {kind} identifier. Expected one of {list(known)}. Received: {identifier!r}"
        )
    return known[identifier]


def get(
    kind: str, identifier: Any, base: type | tuple[type, ...] = object, **arguments: Any
) -> Any:
    """Turns an instance, a config or an identifier into an instance.

    Args:
        kind: The kind of component.
        identifier: An instance (returned as it is), the config that
            `keras.saving.serialize_keras_object` gives, or a registered identifier.
        base: What an instance has to be.
        **arguments: Constructor arguments, only together with an identifier.

    Returns:
        An instance of `base`.

    Raises:
        ValueError: If the identifier is unknown, or arguments come with an instance or config.
        TypeError: If the result is not an instance of `base`.
    """
    if isinstance(identifier, str):
        return lookup(kind, identifier)(**arguments)
    if arguments:
        raise ValueError(
            f"Constructor arguments go with an identifier only. Received: {kind}={identifier!r} "
            f"together with {arguments}"
        )
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, type) or not isinstance(identifier, base):
        expected = base.__name__ if isinstance(base, type) else kind
        raise TypeError(
            f"{kind} must be an instance of {expected}, its config, or one of "
            f"{list(components(kind))}. Received: {identifier!r}"
        )
    return identifier


def rebuild(cls: type, config: dict[str, Any], custom_objects: Any = None) -> Any:
    """Returns an instance from a config whose values are serialized; the config stays as it is."""
    config = copy.deepcopy(config)  # Keras takes the configs of models apart.
    return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))


def collect(package: str, path: list[str], kind: str) -> dict[str, Any]:
    """Imports every module of a package and returns its registered components by name.

    A new method is therefore one new file: nothing else has to list it.

    Args:
        package: The package's `__name__`.
        path: The package's `__path__`.
        kind: The kind of component that the package holds.

    Returns:
        Class or function name -> component, for those defined inside the package.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
    return {
        component.__name__: component
        for component in components(kind).values()
        if component.__module__.startswith(package + ".")
    }
