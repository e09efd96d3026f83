"""From an opened checkpoint to what runs: its architecture, and its weights in a compute type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastattn.container import BorrowingStore
from fastattn.errors import LoadError, OptionError
from fastattn.graph import Graph
from fastattn.loaders import Checkpoint
from fastattn.loaders.tensors import TensorMap
from fastattn.models import Architecture, build
from fastattn.models.architecture import Weights
from fastattn.packing import (
    COMPUTE_TYPES,
    Needed,
    PackingStore,
    Progress,
    as_float32,
    drop_pages,
    matrix_type,
    needed,
    packed_bytes,
)
from fastattn.passes.attention import round_attention
from fastattn.weights import bind_weights

if TYPE_CHECKING:
    from fastattn.reference.matrices import Matrix


@dataclass(frozen=True)
class Assembly:
    """weights: the parameters by name as the file holds them; None for a converted model, whose weights are packed already.
    parameters: how many numbers they are."""

    checkpoint: Checkpoint
    architecture: Architecture
    weights: Weights | None
    parameters: int

    @property
    def needed(self) -> list[Needed]:
        """What the model's graphs read."""
        return list(needed(self.architecture.graphs.values()))

    def compute_type(self, wanted: str | None) -> str:
        """The type to run in: float32 unless asked for another; a converted model has its own."""
        if wanted is not None and wanted not in COMPUTE_TYPES:
            raise OptionError(f"compute_type: found {wanted!r}, expected one of {', '.join(COMPUTE_TYPES)}")
        converted = self.checkpoint.converted
        if converted is None:
            return wanted or "float32"
        if wanted not in (None, converted.compute_type):
            again = f"convert the original again: fastattn convert MODEL OUT --compute-type {wanted}"
            raise OptionError(
                f"compute_type: {self.checkpoint.path} was converted to {converted.compute_type}; {again}"
            )
        return converted.compute_type

    def graphs(self, compute_type: str) -> Mapping[str, Graph]:
        """The model's graphs as they run in this type: beside smaller weights an encoder's attention multiplies bfloat16."""
        graphs = self.architecture.graphs
        return graphs if compute_type == "float32" else {name: round_attention(graph) for name, graph in graphs.items()}

    def store(self, compute_type: str, num_threads: int, progress: Progress | None) -> PackingStore | BorrowingStore:
        """The weights for the engine: to be packed, or borrowed from a converted model's file."""
        if self.weights is None:
            assert self.checkpoint.converted
            return BorrowingStore(self.checkpoint.converted, self.needed, self.architecture.computed)
        total = sum(math.prod(item.shape) for item in self.needed)
        where = str(self.checkpoint.path)
        return PackingStore(self.weights, compute_type, num_threads, progress, total, where)

    def arrays(self, compute_type: str) -> dict[str, Matrix]:
        """The weights for the NumPy reference, rounded or quantised as the engine does it."""
        from fastattn.reference.matrices import in_type, unpack

        arrays: dict[str, Matrix] = {}
        converted = self.checkpoint.converted
        if converted is not None:
            BorrowingStore(converted, self.needed)  # checks them
        for item in self.needed:
            if converted is None:
                assert self.weights is not None
                array = as_float32(self.weights[item.name])
                arrays[item.name] = in_type(array, compute_type) if item.matrix else array
            elif item.matrix:
                rows, columns, kind, _ = converted.matrices[item.name]
                arrays[item.name] = unpack(converted.packed(item.name), rows, columns, kind, converted.compute_type)
            elif item.name in self.architecture.computed:
                arrays[item.name] = as_float32(self.architecture.computed[item.name])
            else:
                arrays[item.name] = converted.tensors[item.name].stored
        return arrays

    def weight_sizes(self) -> dict[str, int]:
        """Compute type -> bytes of the packed weights; of a converted model its own type only."""
        converted = self.checkpoint.converted
        if converted is not None:
            kinds = {item: converted.matrices[item.name].kind if item.matrix else "" for item in self.needed}
            return {converted.compute_type: sum(packed_bytes(*pair) for pair in kinds.items())}
        sizes = dict.fromkeys(COMPUTE_TYPES, 0)
        for item in self.needed:
            assert self.weights is not None
            array = self.weights[item.name]
            for kind in sizes:
                sizes[kind] += packed_bytes(item, matrix_type(array, kind) if item.matrix else "")
            drop_pages(array)
        return sizes

    def release(self) -> None:
        """Gives the memory of the checkpoint's mapped files back, after the weights were packed from them."""
        tensors = self.checkpoint.tensors
        if self.weights is not None and isinstance(tensors, TensorMap):
            for name in tensors:
                drop_pages(tensors.weight(name).stored)


def assemble(checkpoint: Checkpoint) -> Assembly:
    """The architecture that config.json describes with the checkpoint's weights; LoadError where they do not fit."""
    architecture = build(checkpoint.config, str(checkpoint.path))
    converted = checkpoint.converted
    if converted is not None:
        if converted.family != architecture.family:
            found = f"weights of {converted.family!r}, but config.json describes {architecture.family!r}"
            raise LoadError(f"{converted.path}: {found}")
        return Assembly(checkpoint, architecture, None, converted.parameters)
    a = architecture
    bound = bind_weights(a.params, checkpoint, a.rename, a.optional, a.ignore, a.columns)
    parameters = sum(math.prod(a.params[name]) for name in bound)
    return Assembly(checkpoint, architecture, a.prepare(bound), parameters)
