"""Folder of a teacher cache: checks that it belongs to the cache, and that no shard is missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modreduce_keras import whole_files
from modreduce_keras.data import cache_metadata, shards
from modreduce_keras.data.cache_metadata import MANIFEST, WEIGHTS
from modreduce_keras.data.shard_files import DamagedError


class UnfilledError(ValueError):
    """Outputs are missing in a cache."""


class CacheFolder:
    """A folder of files that belong to one cache.

    Args:
        path: The folder.
        own: What the cache is of, as its file says it: hash of the teacher's weights, taps, shapes
            and dtypes of the outputs, number of views, the dtype of what is stored, and `top_k`.
        arrays: Shape of a row and dtype of each array of a shard.
    """

    def __init__(
        self, path: Path, own: dict[str, Any], arrays: Sequence[tuple[list[int], str]]
    ) -> None:
        self.path, self._own, self._arrays = path, own, arrays

    def claim(self) -> None:
        """Makes the folder one of this cache, of however many processes that do so at once.

        What says whose it is, is written again where it is damaged.

        Raises:
            ValueError: If the folder, or a shard in it, is of another cache.
        """
        file, content = self.path / MANIFEST, cache_metadata.encoded(self._own)
        try:
            there = cache_metadata.manifest(self.path)
        except ValueError:  # damaged
            self._require_own_shards()
            whole_files.write(file, content)
            return
        if there is None:
            self._require_own_shards()
            if whole_files.create(file, content):
                return
        self._require_own()

    def open(self) -> shards.Rows:
        """Returns the rows of all views, which are verified when they are read.

        Raises:
            UnfilledError: If some are missing.
            ValueError: If there is no cache, it is another one, or some files are damaged.
        """
        self._require_own()
        whole = []
        for path in shards.paths(self.path):
            try:
                whole.append(shards.read(path))
            except FileNotFoundError:  # removed by another process; counted below
                continue
            except DamagedError as error:
                raise DamagedError(f"{error}. cache.fill(dataset) computes it again") from error
            self._require_own_shard(whole[-1])
        rows = shards.Rows(whole, self._own["views"])
        for view in range(self._own["views"]):
            stored = rows.count(view)
            size = cache_metadata.size_of(self.path, view)
            if not stored or stored != size:
                name = cache_metadata.complete(self.path, view).name
                raise UnfilledError(
                    f"The cache in {self.path} is not filled: view {view} has {stored} samples "
                    f"of {'a number unknown' if size is None else size}. "
                    f"cache.fill(dataset) continues it. {name} holds the number of samples"
                )
        return rows

    def _require_own(self) -> None:
        there = cache_metadata.manifest(self.path)
        if there is None:
            raise ValueError(
                f"There is no cache in {self.path}. Fill it first: cache.fill(dataset)"
            )
        self._require_same(MANIFEST, self._own, there)

    def _require_own_shards(self) -> None:
        """Raises unless the shards of a folder that does not say whose it is fit this cache."""
        for path in shards.paths(self.path):
            try:
                self._require_own_shard(shards.read(path))
            except (FileNotFoundError, DamagedError):  # computed again
                continue

    def _require_own_shard(self, shard: shards.Shard) -> None:
        own, views = self._own, self._own["views"]
        mine = {
            WEIGHTS: own[WEIGHTS],
            "shapes": [shape for shape, _ in self._arrays],
            "dtypes": sorted({dtype for _, dtype in self._arrays}),
            "views": views,
        }
        there = {
            WEIGHTS: shard.teacher or own[WEIGHTS],
            "shapes": [list(column.shape[1:]) for column in shard.columns],
            "dtypes": sorted({column.dtype.name for column in shard.columns}),
            "views": max(views, shard.view + 1),
        }
        self._require_same(shard.path.name, mine, there)

    def _require_same(self, file: str, own: dict[str, Any], there: dict[str, Any]) -> None:
        differing = [
            f"{what} ({there.get(what)} in the cache, {now} now)"
            for what, now in own.items()
            if now != there.get(what)
        ]
        if differing:
            raise ValueError(
                f"The cache in {self.path} is another one: by its {file} it differs in "
                f"{', '.join(differing)}. Give this one a folder of its own."
            )
