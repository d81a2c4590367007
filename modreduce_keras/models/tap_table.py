"""The layers of a model as a table: what can be tapped, and where stages end."""

from typing import NamedTuple

import keras

from modreduce_keras.models.stages import Places
from modreduce_keras.models.tables import Table


class Tap(NamedTuple):
    """A layer that can be tapped.

    Attributes:
        name: Its name.
        path: Its path through nested models, which a tap may be.
        kind: Its class.
        shape: Of its output for one sample; `None` where it has several.
        stride: How many positions of the input one position stands for; `None` without positions.
        ends: What of the model ends here, which a tap may be too: `"stage2"`, `"embedding"`,
            `"logits"`; `""` elsewhere.
    """

    name: str
    path: str
    kind: str
    shape: tuple[int | None, ...] | None
    stride: int | None
    ends: str


def taps(model: keras.Model) -> Table:
    """Returns the layers of a model in the order in which they run, and where its stages end.

    A stage ends with the last block before the resolution changes; a model that keeps its
    resolution, as transformers do, has a stage for each block. `"embedding"` is what the last
    Dense layer reads, without dropout, and `"logits"` the output, before a layer of its own that
    makes it probabilities. They are found by the structure of the model, and not by the names and
    numbers that Keras gives layers, and every `at=`, `student=` and `teacher=` of a knowledge takes
    them where no layer has that name. Attention maps are computed inside of layers and have no
    rows: see `mr.TapReader`.

    Args:
        model: A built Keras model of any kind. Nested models are unfolded; a layer with layers
            inside counts as one, unless it holds a row of blocks. Sizes that the model leaves open
            stand in the table as they are for images of 224 pixels, or 16 tokens.

    Returns:
        A table with the columns `path`, `kind`, `shape`, `stride` and `ends`. It prints as text;
        `to_markdown()` and `to_dataframe()` return it in other forms. Rows have the attributes of
        the columns and `name`.

    Raises:
        TypeError: If it is not a model.
        ValueError: If the model is not built or does not run symbolically.

    Example:
        >>> import modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> ends = {row.ends: row.path for row in mr.models.taps(model) if row.ends}
        >>> sorted(ends)
        ['embedding', 'logits', 'stage1', 'stage2']
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: {model!r}")
    places = Places(model)
    ends: dict[int, list[str]] = {}
    for name, target in places.found.items():
        ends.setdefault(target.node, []).append(name)
    shown = {target.node: target for target in places.found.values()}
    rows = []
    for index, node in enumerate(places.structure.nodes):
        path = shown[index].shown if index in shown else node.tap
        if path is not None:
            shape = None if node.shape is None else node.shape[1:]
            stride = places.stride(index)
            own = ", ".join(ends.get(index, []))
            rows.append(Tap(node.operation.name, path, node.kind, shape, stride, own))
    return Table(rows, ["path", "kind", "shape", "stride", "ends"])
