"""Copying: copies the whole state of layers, not only their weights, to other layers and files."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.keras_internals import flatten_layers

_VOCABULARIES = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
"""Layers whose state is a vocabulary in a table, which is none of their variables."""
KERAS_LAYERS = frozenset(one for one in vars(keras.layers).values() if isinstance(one, type))
_IDF = "idf_weights"
_VOCABULARY_FILE, _BOUNDARIES_FILE = "vocabulary.json", "boundaries.json"
_ASSETS_FOLDER = "assets"


def copy_state(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Gives a model, or a layer, the whole state of another one of the same layers.

    That is the weights, what `adapt` has found (the statistics of `Normalization`, the boundaries
    of `Discretization`, the vocabularies of `StringLookup`, `IntegerLookup` and
    `TextVectorization`), and what layers of your own keep as assets (`save_assets`,
    `load_assets`) or derive from their weights (`finalize_state`). `set_weights` copies the
    weights alone. Layers with a state are paired by name, or, where the names are others or come
    several times, in their order; layers without one do not matter. The states of random
    generators stay as they are.

    Args:
        source: A built model or layer.
        target: Another one, whose state is replaced.

    Raises:
        ValueError: If their layers differ, or the state of one cannot be copied; the message
            names it.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> def net():
        ...     layers = [keras.layers.Normalization(), keras.layers.Dense(2)]
        ...     return keras.Sequential([keras.Input((3,)), *layers])
        >>> data = np.arange(12.0).reshape(4, 3)
        >>> trained, fresh = net(), net()
        >>> trained.layers[0].adapt(data)
        >>> mr.models.copy_state(trained, fresh)
        >>> bool(np.array_equal(trained(data), fresh(data)))
        True
    """
    pairs = list(_pairs(source, target))
    for one, other in pairs:
        try:
            _copy_own(one, other)
        except Exception as error:
            raise ValueError(
                f"The state of the layer {one.name!r} ({type(one).__name__}) cannot be copied into "
                f"{other.name!r} ({type(other).__name__}): {error}"
            ) from error
    for _, other in reversed(pairs):
        finalize(other)


def copy_all_but_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Gives a layer what of another one's state is no weight; its own weights stay.

    That is what was adapted to data, and assets. What is derived from weights is derived anew.
    """
    for one, other in reversed(list(zip(parts(source), parts(target), strict=True))):
        if is_adapted(one):
            copy_state(one, other)
            continue
        if _loads_in_its_own_way(other):
            other.load_own_variables(_own_variables(other))
        _copy_assets(one, other)


def finalize(layer: keras.layers.Layer) -> None:
    """Lets a layer derive anew what it derives from its variables, if it does.

    Layers that load their variables in a way of their own derive it there.
    """
    own = type(layer).load_own_variables is not keras.layers.Layer.load_own_variables
    if is_adapted(layer) and not own:
        layer.finalize_state()


def is_adapted(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer has state that training does not change: what `adapt` finds."""
    return hasattr(layer, "finalize_state")


def adapted_variables(model: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a model that hold what its layers were adapted to."""
    adapted = [layer for layer in parts(model) if is_adapted(layer)]
    return [v for layer in adapted for v in layer.variables if not v.trainable]


def make_runnable(model: keras.layers.Layer) -> None:
    """Gives layers something to run with, until what they were adapted to is loaded.

    Without it a lookup in the mode `"tf_idf"`, or a `Discretization`, that was rebuilt from a
    config does not even run symbolically.
    """
    for layer in parts(model):
        if isinstance(layer, keras.layers.Discretization) and layer.bin_boundaries is None:
            layer.bin_boundaries = list(range(layer.num_bins - 1))
        # A TextVectorization has a StringLookup in it.
        is_lookup = isinstance(layer, (keras.layers.IntegerLookup, keras.layers.StringLookup))
        config = layer.get_config() if is_lookup else {}
        size = config.get("vocabulary_size")
        if config.get("output_mode") == "tf_idf" and size and _vocabulary(layer) is None:
            numbers = range(1, size - len(layer.get_vocabulary()) + 1)
            is_integer = isinstance(layer, keras.layers.IntegerLookup)
            tokens = [number if is_integer else f"token {number}" for number in numbers]
            layer.set_vocabulary(tokens, [1.0] * len(tokens))


def parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers in it, each once, in an order that copies share."""
    return list({id(one): one for one in flatten_layers(layer)}.values())


def fingerprint_of_tables(model: keras.layers.Layer) -> str:
    """Returns a hash of the state that is in no variable, `""` where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        written = _write_tables(model, Path(folder))
    text = json.dumps(written, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest() if written else ""


def save_tables(model: keras.layers.Layer, folder: Path) -> dict[str, str]:
    """Saves the state of a model that files of weights lack: tables and assets.

    The tables are the vocabularies of layers and the boundaries of `Discretization`.

    Args:
        model: A built model.
        folder: An existing folder.

    Returns:
        A hash of each file by its path in the folder.

    Raises:
        ValueError: If a layer's state lies outside of the model, where no file can hold it.
    """
    for layer in parts(model):
        if isinstance(layer, keras.layers.TFSMLayer):
            raise ValueError(
                f"The layer {layer.name!r} of {model.name!r} runs the SavedModel in "
                f"{layer.filepath!r}, which no other file can hold"
            )
    return _write_tables(model, folder)


def load_tables(model: keras.layers.Layer, folder: Path) -> None:
    """Loads what `save_tables` saved, after the weights."""
    for index, layer in enumerate(parts(model)):
        own = folder / str(index)
        if isinstance(layer, _VOCABULARIES):
            if (own / _VOCABULARY_FILE).is_file():
                layer.set_vocabulary(**json.loads((own / _VOCABULARY_FILE).read_bytes()))
        elif isinstance(layer, keras.layers.Discretization):
            if (own / _BOUNDARIES_FILE).is_file():
                layer.bin_boundaries = json.loads((own / _BOUNDARIES_FILE).read_bytes())
        elif hasattr(layer, "load_assets"):
            layer.load_assets(str(own / _ASSETS_FOLDER))
    for layer in reversed(parts(model)):
        finalize(layer)


def _write_tables(model: keras.layers.Layer, folder: Path) -> dict[str, str]:
    for index, layer in enumerate(parts(model)):
        own = folder / str(index)
        if isinstance(layer, _VOCABULARIES):
            vocabulary = _vocabulary(layer)
            if vocabulary is not None:
                own.mkdir(parents=True)
                text = json.dumps({key: value.tolist() for key, value in vocabulary.items()})
                (own / _VOCABULARY_FILE).write_text(text)
        elif isinstance(layer, keras.layers.Discretization):
            if layer.bin_boundaries is not None:
                own.mkdir(parents=True)
                boundaries = np.asarray(layer.bin_boundaries, "float64").tolist()
                (own / _BOUNDARIES_FILE).write_text(json.dumps(boundaries))
        elif hasattr(layer, "save_assets"):
            (own / _ASSETS_FOLDER).mkdir(parents=True)
            layer.save_assets(str(own / _ASSETS_FOLDER))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in files}


def digest_of(path: Path) -> str:
    """Returns a hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _pairs(source: Any, target: Any) -> Iterator[tuple[Any, Any]]:
    """Returns the layers with a state of two models by twos, or says how they differ."""
    given, own = (
        [one for one in parts(model) if _has_own_state(one)] for model in (source, target)
    )
    for names_of in (_paths, _names):
        # Names tell layers apart only where no two of a model share one.
        theirs, ours = (
            {names[id(one)]: one for one in several}
            for names, several in ((names_of(source), given), (names_of(target), own))
        )
        if len(ours) == len(own) and len(theirs) == len(given) and set(ours) == set(theirs):
            own = [ours[name] for name in theirs]
            break
    for one, other in zip(given, own, strict=False):
        if _kind(one) != _kind(other):
            raise ValueError(
                f"{target.name!r} must have the layers of {source.name!r}. Received: "
                f"{_named(other)} in the place of {_named(one)}"
            )
    if len(given) != len(own):
        left = [_named(one) for one in given[len(own) :] or own[len(given) :]]
        raise ValueError(
            f"{target.name!r} must have as many layers with a state as {source.name!r}, "
            f"{len(given)}. Received: {len(own)}; left over are {left}"
        )
    return zip(given, own, strict=True)


def _paths(layer: keras.layers.Layer) -> dict[int, Any]:
    """Returns the names from a layer down to each one in it, by the id of that one."""
    found: dict[int, Any] = {}
    waiting: list[tuple[Any, tuple[str, ...]]] = [(layer, ())]
    while waiting:
        one, path = waiting.pop()
        if id(one) not in found:
            found[id(one)] = path
            inside = flatten_layers(one, include_self=False, recursive=False)
            waiting += [(below, (*path, below.name)) for below in inside]
    return found


def _names(layer: keras.layers.Layer) -> dict[int, Any]:
    return {id(one): one.name for one in parts(layer)}


def has_state(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer, or one in it, has a state."""
    return any(_has_own_state(one) for one in parts(layer))


def kind_of(layer: keras.layers.Layer) -> Any:
    """Returns what must be equal where one layer is to take the state of another."""
    return [_kind(one) for one in parts(layer) if _has_own_state(one)]


def _has_own_state(layer: keras.layers.Layer) -> bool:
    return bool(_own_shapes(layer)) or is_adapted(layer) or hasattr(layer, "save_assets")


def _kind(layer: keras.layers.Layer) -> Any:
    statistics: tuple[Any, ...] = ()
    if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None:
        # Those that were given to it are no state, and must be the same.
        given = layer.input_mean, layer.input_variance
        statistics = tuple(np.asarray(one, "float64").ravel().tolist() for one in given)
    return type(layer), _own_shapes(layer), statistics


def _own_shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    below = {id(v) for one in parts(layer)[1:] for v in one.weights}
    return [tuple(v.shape) for v in layer.weights if id(v) not in below]


def described(layer: keras.layers.Layer) -> str:
    """Returns what a layer is, for messages: its type, its shapes, and given statistics."""
    shapes = [tuple(variable.shape) for variable in layer.weights]
    _, _, statistics = _kind(layer)
    given = f" and given statistics {list(statistics)}" if statistics else ""
    return f"{type(layer).__name__} of shapes {shapes}{given}"


def _named(layer: keras.layers.Layer) -> str:
    return f"{layer.name!r} ({described(layer)})"


def _copy_own(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copies the state of a layer without that of layers in it."""
    if isinstance(source, _VOCABULARIES):
        vocabulary = _vocabulary(source)
        if vocabulary is not None:
            target.set_vocabulary(**vocabulary)
        return
    if isinstance(source, keras.layers.Discretization):
        # It saves them in its config alone.
        target.bin_boundaries = source.bin_boundaries
        return
    target.load_own_variables(_own_variables(source))
    for one, other in zip(lora_weights(source), lora_weights(target), strict=False):
        other.assign(one)
    _copy_assets(source, target)


def lora_weights(layer: Any) -> list[keras.Variable]:
    """Returns the kernel and the low-rank weights of a layer with LoRA; of others nothing.

    Keras saves such a layer with the low-rank weights added to the kernel, and loads zeros for
    them, which get no gradient.
    """
    if not getattr(layer, "lora_enabled", False):
        return []
    bias = getattr(layer, "bias", None)
    return [variable for variable in layer.variables if variable is not bias]


def _loads_in_its_own_way(layer: keras.layers.Layer) -> bool:
    """Returns whether a class loads variables in another way than the class of Keras it is of."""
    of_keras: Any = next(kind for kind in type(layer).__mro__ if kind in KERAS_LAYERS)
    return type(layer).load_own_variables is not of_keras.load_own_variables


def _own_variables(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    return {key: _array(value) for key, value in store.items()}


def _copy_assets(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    if hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)


def _vocabulary(layer: Any) -> dict[str, np.ndarray] | None:
    """Returns what `set_vocabulary` takes to make the same table, or `None` if there is none yet.

    Assets would do for most: a file of lines cannot hold tokens with line breaks in them.
    """
    if not len(layer.get_vocabulary(include_special_tokens=False)):
        return None
    vocabulary = np.asarray(layer.get_vocabulary())
    variables = _own_variables(layer)
    if _IDF not in variables:
        return {"vocabulary": vocabulary}
    return {"vocabulary": vocabulary, _IDF: variables[_IDF][: len(vocabulary)]}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, keras.Variable):
        value = ops.convert_to_tensor(value)
    return ops.convert_to_numpy(value) if ops.is_tensor(value) else np.asarray(value)
