"""A Graph as text, for people and for tests that compare it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .graph import Constant, Graph, Model, Node


def to_text(what: Model | Graph) -> str:
    """One line an operator: ``%y = Conv(%x, @w, @b) {pads=[1, 1, 1, 1]}``. ``@`` marks constants, listed first with
    type and shape; bodies are indented below their operator."""
    if isinstance(what, Model):
        head = ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in sorted(what.graph.opsets.items()))
        return f"model ir {what.ir_version}, {head}\n" + to_text(what.graph)
    return "\n".join(_graph(what, "")) + "\n"


def _graph(graph: Graph, indent: str) -> Iterator[str]:
    inputs = ", ".join(f"%{i.name}: {_type(i)}" for i in graph.inputs)
    outputs = ", ".join(f"%{o.name}: {_type(o)}" for o in graph.outputs)
    yield f"{indent}{graph.name or 'graph'}({inputs}) -> ({outputs}) {{"
    for constant in graph.constants.values():
        yield f"{indent}  @{constant.name}: {_constant(constant)}"
    for node in graph.nodes:
        yield from _node(graph, node, indent + "  ")
    yield f"{indent}}}"


def _node(graph: Graph, node: Node, indent: str) -> Iterator[str]:
    reads = ", ".join(("@" if graph.constant(t) is not None else "%") + t if t else "_" for t in node.inputs)
    writes = ", ".join(f"%{t}" if t else "_" for t in node.outputs)
    op = f"{node.domain}.{node.op}" if node.domain else node.op
    attributes = ", ".join(
        f"{name}={_value(node.attributes[name])}" for name in sorted(node.attributes) if name not in node.bodies
    )
    yield f"{indent}{writes} = {op}({reads})" + (f" {{{attributes}}}" if attributes else "")
    for name, bodies in node.bodies.items():
        for body in bodies:
            yield f"{indent}  {name}:"
            yield from _graph(body, indent + "    ")


def _value(attribute: onnx.AttributeProto) -> str:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return f"{_kind(value.data_type)}{list(value.dims)}"
    if isinstance(value, bytes | float | int):
        return _scalar(value)
    if attribute.type in {onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS, onnx.AttributeProto.STRINGS}:
        return f"[{', '.join(_scalar(v) for v in value)}]"
    return str(onnx.AttributeProto.AttributeType.Name(attribute.type).lower())


def _scalar(value: bytes | float | int) -> str:
    if isinstance(value, bytes):
        return f'"{value.decode("utf-8", "backslashreplace")}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def _constant(constant: Constant) -> str:
    text = f"{_kind(constant.data_type)}{list(constant.dims)}"
    weight = constant.weight
    if weight is not None:
        text += f" {weight.bits} bits, {weight.density:.1%} kept, {weight.pattern}" + (
            ", transposed" if constant.transposed else ""
        )
    return text


def _kind(data_type: int) -> str:
    return (
        str(onnx.TensorProto.DataType.Name(data_type).lower())
        if data_type in onnx.TensorProto.DataType.values()
        else f"type{data_type}"
    )


def _type(info: onnx.ValueInfoProto) -> str:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return kind or "?"
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return f"{_kind(tensor.elem_type)}[...]"
    dims = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    return f"{_kind(tensor.elem_type)}[{', '.join(dims)}]"
