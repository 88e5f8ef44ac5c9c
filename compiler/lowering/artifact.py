"""From a Graph with compressed weights to the artifact: their operators become nodes of ``ai.eie`` (docs/format.md).

Every compressed constant becomes one payload, which all its readers share. A reader that has a compressed form reads the
payload itself; for any other a ``Decode`` node gives the dense weight. A payload that would be hardly smaller than the plain
tensor is not made: that weight stays as it is, and the caller is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from eie.runtime.backends.base import Activations
from eie.runtime.format import CodecName, encode
from eie.runtime.operators import DOMAIN, VERSION
from eie.runtime.weight import Weight

from ..analysis.layers import Layer
from ..ir.graph import Constant, Graph, Model, Node

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_WORTH = 0.9  # a payload larger than this share of the plain tensor gains too little for a layer of its own
_RECURRENT_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """A compressed weight in the artifact.

    Attributes:
        layer: its layer's name.
        source_op: its operator in the model.
        op: the ``ai.eie`` operator.
        attributes: that node's attributes as Python values.
        weight: what the payload holds.
        payload: the payload's bytes.
        bytes_before: of the plain tensor, as the model stored it.
    """

    layer: str
    source_op: str
    op: str
    attributes: dict[str, Any]
    weight: Weight
    payload: bytes
    bytes_before: int


@dataclass(frozen=True)
class Lowered:
    """Attributes:
    stored: one item a compressed weight.
    kept_plain: layer name -> why its compressed weight was given up and is stored as before.
    """

    stored: list[Stored]
    kept_plain: dict[str, str]


def lower(
    model: Model,
    layers: Sequence[Layer],
    activations: Activations,
    *,
    codec: CodecName = "auto",
    index_bits: int | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Lowered:
    """Replace, in place, every compressed weight of ``layers`` by its payload and its readers by ``ai.eie`` nodes.

    Args:
        model: as the passes left it.
        layers: all its layers; those without a compressed weight are passed over.
        activations: what the layers compute in.
        codec, index_bits: as in ``eie.runtime.format.encode``.
    """
    stored: list[Stored] = []
    kept_plain: dict[str, str] = {}
    payloads: dict[Constant, bytes] = {}
    for layer in layers:
        weight = layer.constant.weight
        if weight is None:
            continue
        progress(layer.name)
        payload = encode(weight, codec=codec, index_bits=index_bits)
        if len(payload) > _WORTH * layer.constant.nbytes:
            plain = layer.constant.array()
            layer.constant.replace(plain)
            kept_plain[layer.name] = (
                f"its payload would take {len(payload):,} bytes, the plain tensor takes {layer.constant.nbytes:,}"
            )
            continue
        payloads[layer.constant] = payload
    for layer in layers:
        if layer.constant in payloads:
            weight = layer.constant.weight
            assert weight is not None
            source = layer.op
            node = _Lowering(model.graph, layer.constant, weight, payloads, activations).run(layer)
            attributes = {name: node.get(name) for name in node.attributes}
            stored.append(
                Stored(layer.name, source, node.op, attributes, weight, payloads[layer.constant], layer.constant.stored)
            )
    for graph in model.graph.graphs():
        for name, constant in list(graph.constants.items()):
            if constant in payloads:
                graph.constants[name] = Constant(name, np.frombuffer(payloads[constant], np.uint8))
                graph.value_info.pop(name, None)
                graph.inputs = [i for i in graph.inputs if i.name != name]
    if stored:
        model.graph.opsets[DOMAIN] = VERSION
    return Lowered(stored, kept_plain)


class _Lowering:
    """Rewrites the readers of one compressed constant."""

    def __init__(
        self, top: Graph, constant: Constant, weight: Weight, payloads: dict[Constant, bytes], activations: Activations
    ) -> None:
        self.top, self.constant, self.weight, self.payloads = top, constant, weight, payloads
        self.attributes = (
            {} if activations == "f32" else {"activations": onnx.helper.make_attribute("activations", activations)}
        )
        self._dense: dict[Graph, str] = {}
        self._made: dict[Graph, Node] = {}

    def run(self, layer: Layer) -> Node:
        """Rewrites all readers; gives the node that stands for ``layer`` in reports."""
        shown: Node | None = None
        for graph, node in list(self.top.walk()):
            if self.constant.name not in node.inputs or graph.constant(self.constant.name) is not self.constant:
                continue
            made = self._compressed(graph, node)
            if made is None:
                made = self._decoded(graph, node)
            if shown is None or node is layer.node:
                shown = made
        assert shown is not None, f"nothing reads {self.constant.name}"
        return shown

    # -- a reader that has a compressed form -------------------------------------------------------------------------

    def _compressed(self, graph: Graph, node: Node) -> Node | None:
        """The ``ai.eie`` node that takes ``node``'s place, or None where there is none."""
        if node.domain == DOMAIN:  # the other weight of a recurrent layer was lowered first
            return node if node.op in _RECURRENT_DEFAULTS and self.constant.name in node.inputs[1:3] else None
        if (
            node.domain not in ("", "ai.onnx")
            or node.inputs.count(self.constant.name) != 1
            or self.constant.data_type not in _FLOATS
        ):
            return None
        slot = node.inputs.index(self.constant.name)
        rewrite = {
            ("Gemm", 1): self._gemm,
            ("MatMul", 1): self._matmul,
            ("Conv", 1): self._convolution,
            ("ConvTranspose", 1): self._convolution,
            ("LSTM", 1): self._recurrent,
            ("LSTM", 2): self._recurrent,
            ("GRU", 1): self._recurrent,
            ("GRU", 2): self._recurrent,
            ("Gather", 0): self._gather,
            ("Transpose", 0): self._transposed,
        }.get((node.op, slot))
        return rewrite(graph, node) if rewrite else None

    def _gemm(self, graph: Graph, node: Node) -> Node | None:
        if bool(node.get("transB", 0)) == self.constant.transposed or len(self.weight.shape) != 2:
            return None  # the constant is stored in the other orientation, for another reader
        if node.get("alpha", 1.0) != 1.0:
            return None
        x = node.inputs[0]
        if node.get("transA", 0):
            turned = graph.fresh(f"{x}.T")
            graph.add(Node("Transpose", [x], [turned], name=turned), before=node)
            x = turned
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        beta = node.get("beta", 1.0)
        vector = self._bias_vector(graph, bias, beta) if bias else ""
        if vector is not None:
            return self._replace(graph, node, "Gemm", [x, self.constant.name, vector], {})
        output = node.outputs[0]
        product = graph.fresh(f"{output}.product")
        made = self._replace(graph, node, "Gemm", [x, self.constant.name], {}, outputs=[product])
        if beta != 1.0:
            scaled, factor = graph.fresh(f"{bias}.scaled"), graph.add_constant("beta", np.array(beta, self._dtype))
            graph.add(Node("Mul", [bias, factor], [scaled], name=scaled))
            bias = scaled
        graph.add(Node("Add", [product, bias], [output], name=f"{made.name}.bias"))
        return made

    def _bias_vector(self, graph: Graph, name: str, beta: float) -> str | None:
        """Gemm's C as constant vector [out], times beta; None where it is no such thing."""
        constant, out = graph.constant(name), self.weight.shape[0]
        if constant is None or constant.weight is not None or constant.elements not in (1, out):
            return None
        if constant.elements != 1 and constant.dims[-1] != out:
            return None
        if constant.dims == (out,) and beta == 1.0:
            return name
        value = np.broadcast_to(constant.array().reshape(-1).astype(np.float32) * np.float32(beta), (out,))
        return graph.add_constant(name, value.astype(constant.array().dtype))

    def _matmul(self, graph: Graph, node: Node) -> Node | None:
        if not self.constant.transposed or len(self.weight.shape) != 2:
            return None
        return self._replace(graph, node, "Gemm", [node.inputs[0], self.constant.name], {})

    def _transposed(self, graph: Graph, node: Node) -> Node | None:
        """x W^T by way of a Transpose, as tied embeddings have it: the payload's own orientation."""
        readers, turned = graph.consumers(node.outputs[0]), node.outputs[0]
        if len(self.weight.shape) != 2 or self.constant.transposed or node.get("perm", [1, 0]) != [1, 0]:
            return None
        if (
            not readers
            or graph.is_output(turned)
            or any(r.op != "MatMul" or r.domain or r.inputs[1:] != [turned] for r in readers)
        ):
            return None
        made = [self._replace(graph, r, "Gemm", [r.inputs[0], self.constant.name], {}) for r in readers]
        graph.remove(node)
        return made[0]

    def _convolution(self, graph: Graph, node: Node) -> Node | None:
        if not 1 <= len(self.weight.shape) - 2 <= 3:
            return None
        ones = [1] * (len(self.weight.shape) - 2)
        defaults = {"strides": ones, "dilations": ones, "pads": [0] * 2 * len(ones), "group": 1, "auto_pad": "NOTSET"}
        attributes = {k: v for k, v in node.attributes.items() if k not in defaults or node.get(k) != defaults[k]}
        # ONNX Runtime shows payloads to no shape inference: the kernel's shape is said
        attributes["kernel_shape"] = onnx.helper.make_attribute("kernel_shape", list(self.weight.shape[2:]))
        return self._replace(graph, node, node.op, list(node.inputs), attributes)

    def _recurrent(self, graph: Graph, node: Node) -> Node | None:
        both = [graph.constant(node.inputs[slot]) for slot in (1, 2)]
        if any(c is None or c not in self.payloads for c in both):
            return None
        directions = 2 if node.get("direction", "forward") == "bidirectional" else 1
        if (
            [a.decode() if isinstance(a, bytes) else a for a in node.get("activations", [])]
            not in ([], _RECURRENT_DEFAULTS[node.op] * directions)
            or "activation_alpha" in node.attributes
            or "activation_beta" in node.attributes
        ):
            return None
        attributes = {k: v for k, v in node.attributes.items() if k != "activations"}
        return self._replace(graph, node, node.op, list(node.inputs), attributes)

    def _gather(self, graph: Graph, node: Node) -> Node | None:
        if node.get("axis", 0) != 0 or self.constant.transposed:
            return None
        return self._replace(graph, node, "Gather", list(node.inputs), {}, arithmetic=False)

    def _replace(
        self,
        graph: Graph,
        node: Node,
        op: str,
        inputs: list[str],
        attributes: dict[str, onnx.AttributeProto],
        *,
        outputs: list[str] | None = None,
        arithmetic: bool = True,
    ) -> Node:
        """Put an ``ai.eie`` node in ``node``'s place; float16 and bfloat16 tensors are cast around it."""
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = list(node.outputs) if outputs is None else outputs
        kind = self.constant.data_type
        casts: list[Node] = []
        if kind != onnx.TensorProto.FLOAT:
            plain = {
                slot
                for slot, t in enumerate(inputs)
                if not t or graph.constant(t) in self.payloads or not self._is_float_input(op, slot)
            }
            for slot, tensor in enumerate(inputs):
                if slot not in plain:
                    inputs[slot] = self._as_float32(graph, tensor, node)
            for i, output in enumerate(outputs):
                if output:
                    wide = graph.fresh(f"{output}.f32")
                    cast = Node("Cast", [wide], [output], name=wide)
                    cast.set("to", kind)
                    casts.append(cast)
                    outputs[i] = wide
        made = Node(op, inputs, outputs, DOMAIN, node.label, {**attributes, **(self.attributes if arithmetic else {})})
        for replacement in (made, *casts):
            graph.add(replacement, before=node)
        graph.remove(node)
        return made

    @staticmethod
    def _is_float_input(op: str, slot: int) -> bool:
        return not (op == "Gather" or (op in _RECURRENT_DEFAULTS and slot == 4))  # indices; sequence lengths

    def _as_float32(self, graph: Graph, tensor: str, node: Node) -> str:
        constant = graph.constant(tensor)
        if constant is not None:  # a bias: widened once, here
            return graph.add_constant(tensor, constant.array().astype(np.float32))
        wide = graph.fresh(f"{tensor}.f32")
        cast = Node("Cast", [tensor], [wide], name=wide)
        cast.set("to", onnx.TensorProto.FLOAT)
        graph.add(cast, before=node)
        return wide

    # -- any other reader -------------------------------------------------------------------------------------------

    def _decoded(self, graph: Graph, node: Node) -> Node:
        """A ``Decode`` node for the dense weight, one a graph, read by ``node`` in the constant's place."""
        if graph not in self._dense:
            dense = graph.fresh(f"{self.constant.name}.dense")
            decode = Node("Decode", [self.constant.name], [dense], DOMAIN, dense)
            shape = self.weight.shape[::-1] if self.constant.transposed else self.weight.shape
            if self.constant.transposed:
                decode.set("transpose", 1)
            if shape != self.constant.dims:
                decode.set("shape", list(self.constant.dims))
            graph.add(decode, before=node)
            if self.constant.data_type != onnx.TensorProto.FLOAT:
                dense = graph.fresh(f"{self.constant.name}.cast")
                cast = Node("Cast", list(decode.outputs), [dense], name=dense)
                cast.set("to", self.constant.data_type)
                graph.add(cast, before=node)
            self._made[graph] = decode
            self._dense[graph] = dense
        dense = self._dense[graph]
        for slot, tensor in enumerate(node.inputs):
            if tensor == self.constant.name:
                graph.set_input(node, slot, dense)
        return self._made[graph]

    @property
    def _dtype(self) -> npt.DTypeLike:
        return onnx.helper.tensor_dtype_to_np_dtype(self.constant.data_type)
