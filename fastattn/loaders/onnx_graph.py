"""One ONNX file → its parameters under PyTorch names."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field, replace

import numpy as np

from fastattn.errors import LoadError
from fastattn.loaders import callpaths
from fastattn.loaders.onnx_constants import BFLOAT16, ELEMENT_TYPES, Constant, Evaluator, Payloads, Source
from fastattn.loaders.onnx_format import GraphRecord, Node, OnnxFile, TensorRecord
from fastattn.loaders.onnx_names import (
    SPEC_KIND,
    Module,
    Use,
    derived_name,
    folded_from,
    is_parameter_name,
    module_of,
    own_name,
    plain_product,
    uses,
)
from fastattn.loaders.onnx_recurrent import GATES, recurrent_parameters
from fastattn.loaders.onnx_runtimes import Rewritten
from fastattn.loaders.tensors import AnyArray, Weight, same_values

Scope = MutableMapping[str, Constant]


@dataclass
class Claim:
    """One reason to call a tensor by a name."""

    weight: Weight
    sources: tuple[Source, ...]
    strength: int  # OWN, DERIVED or ALIAS
    is_call_path: bool = False


OWN, DERIVED, ALIAS = 2, 1, 0


@dataclass
class NamedTensors:
    """What one file holds.

    Attributes:
        weights: parameters by PyTorch name, and under their ONNX name those that could not be named.
        aliases: further names, from the places that use a tensor, that may or may not be parameters of the model.
        constants: names in `weights` of unnamed values that stand in no parameter's place (masks, folded tables).
        call_paths: names in `weights` made from call paths, which may leave out parts of the module path.
        hint: why tensors may be missing, if the file says anything of it.
    """

    weights: dict[str, Weight] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    call_paths: set[str] = field(default_factory=set)
    hint: str = ""


def read_parameters(file: OnnxFile) -> NamedTensors:
    """Find every parameter of the file and its name; no data is copied, except where an exporter left arithmetic.

    Raises:
        LoadError: weights are quantised, or the file is not consistent.
    """
    walk = _Walk(file)
    walk.graph(file.graph, {}, {})
    walk.rewritten.refuse(file.path)
    return walk.resolve()


def _added_to_products(
    node: Node, inputs: list[Constant | None], scope: Scope, producers: MutableMapping[str, Node]
) -> Iterator[tuple[Constant, int]]:
    """Constants that this node adds to a product with a constant matrix, and the product's columns."""
    if node.op == "Gemm" and len(inputs) > 2:
        _, matrix, constant = inputs[:3]
        if matrix is not None and constant is not None and matrix.array.ndim == 2:
            yield constant, matrix.array.shape[0 if node.integer("transB", 0) else 1]
    if node.op != "Add":
        return
    for constant, other in zip(inputs, reversed(node.inputs), strict=True):
        product = producers.get(other)
        if constant is None or product is None or len(product.inputs) != 2:
            continue
        matrix = scope.get(product.inputs[1])
        if product.op in ("MatMul", "FusedMatMul") and matrix is not None and matrix.array.ndim == 2:
            yield constant, matrix.array.shape[0 if product.integer("transB", 0) else 1]


class _Walk:
    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.payloads = Payloads(file)
        self.evaluator = Evaluator(self.payloads)
        self.rewritten = Rewritten()
        self.claims: dict[str, list[Claim]] = {}
        self.unnamed: list[tuple[Source, Weight]] = []
        self.layers: dict[tuple[str, bool], list[tuple[int, ...]]] = {}  # recurrent module -> its layers seen so far
        self.multiplied: dict[int, list[AnyArray]] = {}  # id of a source -> what products take of it, as [out, in]
        self.called: dict[tuple[object, ...], str] = {}  # a use of a tensor -> the call path it was first seen under
        self.noted = any(SPEC_KIND in notes for notes in file.graph.value_metadata.values())

    # -- reading the graph ------------------------------------------------------------------------------------------

    def graph(self, graph: GraphRecord, outer: Scope, outer_producers: MutableMapping[str, Node]) -> None:
        self._unique(graph)
        scope: Scope = ChainMap({}, outer)
        for tensor in graph.initializers:
            scope[tensor.name] = self._initializer(tensor, graph)
        producers = ChainMap({o: n for n in graph.nodes for o in n.outputs if o}, outer_producers)
        consumers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                consumers.setdefault(name, []).append(node)
        for node in graph.nodes:
            if node.op == "Constant":
                self._constant_node(node, scope, graph)
                continue
            inputs = [scope.get(name) if name else None for name in node.inputs]
            self.rewritten.see(node, inputs, producers)
            if not self._evaluate(node, inputs, scope, graph):
                self._use(node, inputs, scope, producers, consumers)
                self._logits_bias(node, inputs, scope, producers)
            for attribute in node.attributes.values():
                for inner in attribute.graphs:
                    self.graph(inner, scope, producers)

    def _unique(self, graph: GraphRecord) -> None:
        """Every value of a graph has one source."""
        made = [(tensor.name, "initializer") for tensor in graph.initializers]
        made += [(name, f"output of {n.op} {n.name!r}") for n in graph.nodes for name in n.outputs if name]
        seen: dict[str, str] = {}
        for name, what in made:
            if name in seen:
                raise LoadError(f"{self.file.path}: value {name!r} occurs twice: {seen[name]}, {what}")
            seen[name] = what

    def _initializer(self, tensor: TensorRecord, graph: GraphRecord) -> Constant:
        notes = graph.value_metadata.get(tensor.name, {})
        array = self.payloads.array(tensor, tensor.name)
        source = Source(tensor.name, "initializer")
        number = array.ndim == 0 and "." not in tensor.name  # that an optimiser left; no module has it
        named = not number and tensor.name not in graph.outputs and is_parameter_name(tensor.name, notes, self.noted)
        name = own_name(tensor.name) if named else ""
        constant = Constant(array, tensor.data_type == BFLOAT16, (source,), name, folded=folded_from(notes))
        if name:
            self._claim(name, constant, array, OWN, f"initializer {tensor.name!r}")
        else:
            note = f"initializer {tensor.name!r}, no name derived"
            self.unnamed.append((source, self._weight(constant, array, note)))
        return constant

    def _constant_node(self, node: Node, scope: Scope, graph: GraphRecord) -> None:
        output = node.outputs[0] if node.outputs else ""
        record = next((a.tensor for a in node.attributes.values() if a.tensor is not None), None)
        source = Source(output, "constant node")
        if record is None:
            numbers: AnyArray | None = None
            for name, attribute in node.attributes.items():
                if name in ("value_ints", "value_int", "value_floats"):
                    values = {"value_ints": attribute.ints, "value_int": attribute.i, "value_floats": attribute.floats}
                    numbers = np.array(values[name])
            if numbers is not None:
                scope[output] = Constant(numbers, False, (source,))
            return
        if record.data_type not in ELEMENT_TYPES:  # text and the like; not a parameter
            return
        array = self.payloads.array(record, output)
        named = "." in output and output not in graph.outputs and is_parameter_name(output, {}, self.noted)
        name = own_name(output) if named else ""
        constant = Constant(array, record.data_type == BFLOAT16, (source,), name)
        scope[output] = constant
        if name:
            self._claim(name, constant, array, OWN, f"constant node {node.name!r}")
        else:
            note = f"constant node {node.name!r}, no name derived"
            self.unnamed.append((source, self._weight(constant, array, note)))

    def _evaluate(self, node: Node, inputs: list[Constant | None], scope: Scope, graph: GraphRecord) -> bool:
        """Carry out a shape-only node; Identity may carry the name of a parameter equal to another one."""
        results = self.evaluator.run(node, inputs)
        if results is None:
            return False
        for output, result in zip(node.outputs, results, strict=False):
            notes = graph.value_metadata.get(output, {})
            aliased = "." in output and output not in graph.outputs and is_parameter_name(output, notes, self.noted)
            if node.op == "Identity" and aliased:
                result.name = own_name(output)
                source = result.sources[0].name if result.sources else ""
                note = f"initializer {source!r} behind {node.name or 'Identity'}"
                self._claim(result.name, result, result.array, OWN, note)
            scope[output] = result
        return True

    # -- naming -----------------------------------------------------------------------------------------------------

    def _use(
        self,
        node: Node,
        inputs: list[Constant | None],
        scope: Scope,
        producers: MutableMapping[str, Node],
        consumers: dict[str, list[Node]],
    ) -> None:
        if not any(inputs):
            return
        module = module_of(node)
        if node.op in GATES:
            self._recurrent(node, inputs, module)
            return
        bias = self._bias_name(node, inputs, scope, module, consumers)
        for use in uses(node, inputs, self._follows_product(node, scope, module, producers)):
            for source in use.constant.sources:
                source.weight_like = True
            if node.op in ("MatMul", "Gemm") and use.role == "weight" and len(use.constant.sources) == 1:
                self.multiplied.setdefault(id(use.constant.sources[0]), []).append(use.array)
            if plain_product(node):
                self._named_use(node, use, module, bias)

    def _named_use(self, node: Node, use: Use, module: Module | None, bias: str) -> None:
        constant = use.constant
        how = f"{use.note}, ".lstrip(", ") + f"consumer {node.name or node.op}"
        path = module.path if module else ""
        known = constant.name or constant.folded
        if constant.folded and not constant.name and constant.array.ndim == use.array.ndim:
            note = f"{self._sources(constant)} {how}, folded from that name"
            self._claim(constant.folded, constant, use.array, DERIVED, note)
        elif constant.steps and all(self._is_own(source) for source in constant.sources):
            known = own_name(constant.sources[0].name)
            if len(constant.sources) > 1:
                return  # parameters packed at run time; each has its own name already
        name, is_call_path = derived_name(module, use.role, bias)
        if not name or name == known:
            return
        if known and (known.startswith(path + ".") or not known.endswith(use.role)):
            return  # a parameter of this module under another name
        strength = DERIVED if not known or (module is not None and module.certain) else ALIAS
        self._claim(name, constant, use.array, strength, f"{self._sources(constant)} {how}", (), is_call_path)

    def _logits_bias(
        self, node: Node, inputs: list[Constant | None], scope: Scope, producers: MutableMapping[str, Node]
    ) -> None:
        """The buffer [1, V] that Hugging Face's models add to their logits: it loses its name where the module copies it first
        (BART), and is known by its shape, which no other addend has: of a product with a matrix of V columns."""
        for constant, width in _added_to_products(node, inputs, scope, producers):
            if constant.name or constant.array.shape not in ((1, width), (1, 1, width)):
                continue
            for source in constant.sources:
                source.weight_like = True
            note = f"{self._sources(constant)} added to the logits by {node.name or node.op}"
            module = module_of(node)  # where the model is wrapped in another
            prefix = f"{module.path}." if module and module.path else ""
            self._claim(f"{prefix}final_logits_bias", constant, constant.array.reshape(1, width), DERIVED, note)

    def _is_own(self, source: Source) -> bool:
        return any(source in claim.sources for claim in self.claims.get(own_name(source.name), []))

    def _recurrent(self, node: Node, inputs: list[Constant | None], module: Module | None) -> None:
        """Layer n of a module is its n-th node with weights of its own."""
        identity = tuple(id(s) for c in inputs[1:4] if c is not None for s in c.sources)
        path = module.path if module else ""
        reverse = "direction" in node.attributes and node.attributes["direction"].s == "reverse"
        layers = self.layers.setdefault((path, reverse), [])
        if identity not in layers:
            layers.append(identity)
        found = recurrent_parameters(node, inputs, layers.index(identity), str(self.file.path))
        for constant, suffix, array, gates in found:
            for source in constant.sources:
                source.weight_like = True
            if module is not None and path and not (constant.sources and all(map(self._is_own, constant.sources))):
                note = f"{self._sources(constant)} part of {node.op} {node.name}"
                self._claim(f"{path}.{suffix}", constant, array, DERIVED, note, gates, not module.certain)

    def _bias_name(
        self,
        node: Node,
        inputs: list[Constant | None],
        scope: Scope,
        module: Module | None,
        consumers: dict[str, list[Node]],
    ) -> str:
        """The own name of the bias that is added to this product, '' if there is none."""
        if node.op == "Gemm" and len(inputs) > 2 and inputs[2] is not None:
            return inputs[2].name
        if node.op != "MatMul" or not node.outputs:
            return ""
        after = consumers.get(node.outputs[0], [])
        if len(after) != 1 or after[0].op != "Add" or module_of(after[0]) != module:
            return ""
        names = [c.name for n in after[0].inputs if n and (c := scope.get(n)) is not None]
        return names[0] if names else ""

    def _follows_product(
        self, node: Node, scope: Scope, module: Module | None, producers: MutableMapping[str, Node]
    ) -> bool:
        """Whether this Add has a product with a constant weight, of the same module, on one side."""
        if node.op != "Add" or module is None:
            return False
        products = [p for n in node.inputs if n and (p := producers.get(n)) is not None and p.op == "MatMul"]
        return any(module_of(p) == module and any(i in scope for i in p.inputs) for p in products)

    def _sources(self, constant: Constant) -> str:
        names = " + ".join(repr(s.name) for s in constant.sources[:4])
        return f"{names} via {'·'.join(constant.steps)}," if constant.steps else f"{names},"

    def _weight(self, constant: Constant, array: AnyArray, note: str, gates: tuple[int, ...] = ()) -> Weight:
        gates = gates if len(gates) > 1 else ()
        return Weight(array, f"{self.file.path.name}: {note}", constant.bfloat16, gates)

    def _claim(
        self,
        name: str,
        constant: Constant,
        array: AnyArray,
        strength: int,
        note: str,
        gates: tuple[int, ...] = (),
        is_call_path: bool = False,
    ) -> None:
        if is_call_path:  # a module called again: the name of the first call stands
            path, _, leaf = name.rpartition(".")
            where = array.__array_interface__["data"][0]
            key = (callpaths.base(path), leaf, tuple(map(id, constant.sources)), where, array.shape, array.strides)
            name = self.called.setdefault(key, name)
        claim = Claim(self._weight(constant, array, note, gates), constant.sources, strength, is_call_path)
        self.claims.setdefault(name, []).append(claim)

    # -- settling ---------------------------------------------------------------------------------------------------

    def resolve(self) -> NamedTensors:
        """Choose among the claims on each name; what nothing named keeps its ONNX name."""
        result = NamedTensors(hint=self.rewritten.hint)
        taken: dict[int, str] = {}  # id of a source -> the first name it was given
        for strength in (OWN, DERIVED):
            for name, all_claims in self.claims.items():
                claims = [c for c in all_claims if c.strength == strength]
                if not claims:
                    continue
                weight = result.weights.get(name, claims[0].weight)
                known = {id(s) for c in all_claims if c.strength == OWN for s in c.sources}
                fresh = [c for c in claims if strength == OWN or not known.issuperset(map(id, c.sources))]
                if not all(c.weight is weight or same_values(weight, c.weight) for c in fresh):
                    if strength == OWN:
                        raise LoadError(f"{self.file.path}: two different tensors are called {name!r}")
                    continue  # several anonymous weights of one module: a name for each would be a guess
                if name not in result.weights:
                    result.weights[name] = replace(weight, product=self._product(claims[0]))
                if all(c.is_call_path for c in all_claims if c.strength != ALIAS):
                    result.call_paths.add(name)
                for source in (s for c in claims for s in c.sources):
                    source.placed = True
                    taken.setdefault(id(source), name)
        for name in list(result.weights):
            if parts := self.rewritten.parts(name, result.weights[name]):
                result.weights.update(parts)
                result.call_paths.update(parts)
                result.call_paths.discard(name)
                del result.weights[name]
        self._aliases(result, taken)
        self._leftovers(result)
        return result

    def _product(self, claim: Claim) -> str:
        """`Weight.product` of a tensor as it is stored."""
        stored, found = claim.weight.stored, set()
        if stored.ndim != 2 or stored.shape[0] != stored.shape[1] or len(claim.sources) != 1:
            return ""
        for taken in self.multiplied.get(id(claim.sources[0]), []):
            if taken.shape != stored.shape or taken.__array_interface__["data"] != stored.__array_interface__["data"]:
                continue  # a part, or what was computed of it
            found.add("rows" if taken.strides == stored.strides else "columns")
        return found.pop() if len(found) == 1 else ""

    def _aliases(self, result: NamedTensors, taken: dict[int, str]) -> None:
        for name, claims in self.claims.items():
            if name not in result.weights and claims[0].strength == ALIAS and len(claims[0].sources) == 1:
                target = taken.get(id(claims[0].sources[0]))
                if target is not None and all(same_values(result.weights[target], c.weight) for c in claims):
                    result.aliases[name] = target

    def _leftovers(self, result: NamedTensors) -> None:
        for source, weight in self.unnamed:
            is_float = weight.bfloat16 or weight.stored.dtype.kind == "f"
            if source.placed or not is_float or weight.stored.size <= 1:
                continue
            if source.kind == "constant node" and not source.weight_like:
                continue
            name = source.name or "(unnamed)"
            while name in result.weights:
                name += "'"
            result.weights[name] = weight
            if not source.weight_like:
                result.constants.add(name)
