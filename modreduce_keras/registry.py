"""Short identifiers: one decorator that names, lists and makes every component serializable.

A component (loss, adapter, aggregator, schedule, ...) is registered under its kind and a short
identifier. Arguments for a component take an instance, a config or that identifier, and turn
it into an instance with `get`. Lists of components are always derived from here.
"""

import copy
import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import keras

from modreduce_keras import calls

PACKAGE = "modreduce_keras"

_components: dict[str, dict[str, Any]] = {}


def register(kind: str, identifier: str) -> Callable[[Any], Any]:
    """Registers a class (or a function that builds a model) under a short identifier.

    Classes become serializable by Keras and receive the class attribute `identifier`. Keras knows
    them by the package that defines them (`my_project>ClassName`), unless they were registered
    with Keras before: a class of this library's never shares its name with one of yours. A class
    may be defined again under the same name, as a cell of a notebook does.

    Args:
        kind: The kind of component: `"loss"`, `"adapter"`, `"aggregator"`, `"schedule"`,
            `"knowledge"`, `"model"`, `"distiller"`.
        identifier: The paper's short name in lower case, unique within its kind.

    Returns:
        A decorator that returns what it decorates.

    Raises:
        ValueError: If the identifier, or the name that Keras would know the class by, is already
            taken by something else, or the class has another identifier already.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> @mr.register("aggregator", "first_peer")
        ... class FirstPeer(mr.aggregators.Aggregator):
        ...     def call(self, logits):
        ...         return self.same_for_all(logits[:, 0], logits)
        >>> type(mr.aggregators.get("first_peer")).__name__
        'FirstPeer'
    """

    def decorate(component: Any) -> Any:
        taken = _components.setdefault(kind, {}).get(identifier)
        if taken is not None and _origin(taken) != _origin(component):
            raise ValueError(
                f"The {kind} identifier {identifier!r} is already taken by {_full_name(taken)}. "
                f"Choose another one. Received: {_full_name(component)}"
            )
        is_class = isinstance(component, type)
        if is_class:
            own = vars(component).get("identifier", identifier)
            if own != identifier and components(kind).get(own) is component:
                raise ValueError(
                    f"{_full_name(component)} is registered as {own!r} already. Register a "
                    f"subclass of it. Received: {identifier=}"
                )
            _make_serializable(component)
            component.identifier = identifier
        _components[kind][identifier] = component
        return component

    return decorate


def _make_serializable(component: type) -> None:
    """Registers a class with Keras under the package that defines it, once."""
    if keras.saving.get_registered_name(component) != component.__name__:
        return
    module, name = _origin(component)
    package = module.partition(".")[0]
    # Keras puts ">" between package and name.
    name = component.__name__ if package == PACKAGE else name.replace("<locals>.", "")
    taken = keras.saving.get_registered_object(f"{package}>{name}")
    if taken is not None and _origin(taken) != _origin(component):
        raise ValueError(
            f"The name '{package}>{name}', by which Keras is to know the class, is already taken "
            f"by {_full_name(taken)}. Choose another name for the class, or register it with Keras "
            "first: @keras.saving.register_keras_serializable(package=...) below this decorator. "
            f"Received: {_full_name(component)}"
        )
    keras.saving.register_keras_serializable(package=package, name=name)(component)


def _origin(component: Any) -> tuple[str, str]:
    """Returns the module and the name that a class or function is defined under.

    A script that runs goes by the name that it is imported under elsewhere.
    """
    module = component.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec else Path(file).stem if file else module
    return module, component.__qualname__


def _full_name(component: Any) -> str:
    return f"{component.__module__}.{component.__qualname__}"


def components(kind: str) -> dict[str, Any]:
    """Returns every component of a kind by its identifier, in alphabetical order."""
    return dict(sorted(_components.get(kind, {}).items()))


def lookup(kind: str, identifier: str) -> Any:
    """Returns the class or builder registered under an identifier.

    Upper and lower case, `-` and `_`, and the name of the class count as the identifier.

    Raises:
        ValueError: If the identifier is unknown; the message lists the known ones.
    """
    known = components(kind)
    if identifier in known:
        return known[identifier]
    spellings = {_plain(one.__name__): one for one in known.values()}
    spellings |= {_plain(name): one for name, one in known.items()}
    if _plain(identifier) in spellings:
        return spellings[_plain(identifier)]
    hint = calls.did_you_mean(identifier, known)
    raise ValueError(
        f"Unknown {kind} identifier.{hint} Expected one of {list(known)}. Received: {identifier!r}"
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


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


Component = TypeVar("Component")


class Getter(Generic[Component]):
    """Returns components of a kind: `mr.losses.get("kd", temperature=4.0)`.

    Args:
        kind: The kind of component.
        base: The class that they are instances of.

    Call arguments:
        identifier: A component (returned as it is), its config, or a registered identifier.
        **arguments: Constructor arguments, only together with an identifier.

    Raises:
        ValueError: If the identifier is unknown, or arguments come with an instance or config.
        TypeError: If it has another type.
    """

    def __init__(self, kind: str, base: type[Component]):
        self._kind, self._base = kind, base

    def __call__(self, identifier: str | dict[str, Any] | Component, **arguments: Any) -> Component:
        """Returns the component."""
        return get(self._kind, identifier, base=self._base, **arguments)


def rebuild(cls: type, config: dict[str, Any], custom_objects: Any = None) -> Any:
    """Returns an instance from a config whose values are serialized; the config stays as it is."""
    return cls(**deserialized(config, custom_objects))


def deserialized(config: dict[str, Any], custom_objects: Any = None) -> dict[str, Any]:
    """Returns the arguments that a config holds, which stays as it is."""
    config = copy.deepcopy(config)  # Keras takes the configs of models apart.
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


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
