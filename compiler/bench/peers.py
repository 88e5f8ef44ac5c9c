"""ONNX Runtime's operators on the same layers: what a kernel has to beat. OpenVINO and DeepSparse, where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ..errors import UserError
from .cases import Case
from .deepsparse import DeepSparse, fixed

Array = npt.NDArray[Any]
Call = Callable[[], object]
SYSTEMS = ("openvino", "deepsparse")  # other ones that can be asked for
_CONTRIB = "com.microsoft"
BLOCK = 128  # weights that share a scale in the 4-bit and 2-bit forms


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound(of: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> Call:
    """A run with inputs and outputs in their place: the least that Python adds."""
    binding = of.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for output in of.get_outputs():
        binding.bind_output(output.name)
    return lambda: of.run_with_iobinding(binding)


def _model(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], rank: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(_CONTRIB, 1)]
    )


def _int8(w: Array, axes: tuple[int, ...] | None) -> tuple[Array, Array]:
    """w as int8, and the scales: one, or one for each index that is not in ``axes``."""
    scale = np.maximum(np.abs(w).max(axis=axes, keepdims=axes is not None) / 127, 1e-12).astype(np.float32)
    return np.rint(w / scale).astype(np.int8), scale.reshape(-1) if axes is not None else scale


def _gemm(dense: Array) -> dict[str, onnx.ModelProto]:
    matrix = np.ascontiguousarray(dense.T)
    q, scale = _int8(matrix, None)
    dynamic = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain=_CONTRIB)
    made = {
        "ort fp32": _model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": matrix}, 2),
        "ort int8": _model([dynamic], {"w": q, "s": scale, "z": np.array(0, np.int8)}, 2),
    }
    out, inner = dense.shape
    blocks = -(-inner // BLOCK)
    for bits in (4, 2):  # the numbers don't matter to the time, and are random
        packed = np.random.default_rng(0).integers(0, 256, (out, blocks, BLOCK * bits // 8), np.uint8)
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain=_CONTRIB, K=inner, N=out, bits=bits, block_size=BLOCK,
                                accuracy_level=4)  # fmt: skip
        made[f"ort {bits}-bit"] = _model([node], {"w": packed, "s": np.full(out * blocks, 0.01, np.float32)}, 2)
    return made


def _conv(dense: Array, attributes: Mapping[str, Any]) -> dict[str, onnx.ModelProto]:
    q, scale = _int8(dense, tuple(range(1, dense.ndim)))
    constants: dict[str, Array] = {"w": q, "ws": scale, "wz": np.zeros(len(scale), np.int8), "s": np.array(0.03, np.float32),
                                   "z": np.array(128, np.uint8), "ys": np.array(0.5, np.float32)}  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], **attributes),
        helper.make_node("QuantizeLinear", ["c", "ys", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "z"], ["y"]),
    ]
    return {
        "ort fp32": _model([helper.make_node("Conv", ["x", "w"], ["y"], **attributes)], {"w": dense}, dense.ndim),
        "ort int8": _model(nodes, constants, dense.ndim),
    }


def _lstm(w: Array, r: Array) -> dict[str, onnx.ModelProto]:
    cells = r.shape[-1]
    made = {
        "ort fp32": _model([helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=cells)], {"w": w, "r": r}, 3)
    }
    (qw, ws), (qr, rs) = (_int8(np.ascontiguousarray(m.transpose(0, 2, 1)), (1, 2)) for m in (w, r))
    constants = {"w": qw, "r": qr, "ws": ws, "rs": rs, "wz": np.zeros(1, np.int8), "rz": np.zeros(1, np.int8)}
    names = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["y"], domain=_CONTRIB, hidden_size=cells)
    return made | {"ort int8": _model([node], constants, 3)}


def _without_projection(case: Case) -> dict[str, onnx.ModelProto]:
    """ONNX has no projection: an LSTM of as many cells, whose state is that of all of them, and the numbers random."""
    inputs, cells, _ = case.shape
    rng = np.random.default_rng(0)
    w, r = (rng.standard_normal((1, 4 * cells, n), np.float32) * np.float32(0.05) for n in (inputs, cells))
    return _lstm(w, r)


def peers(case: Case, dense: Sequence[Array], x: Array, threads: int, others: Sequence[str] = ()) -> dict[str, Call]:
    """Calls of ONNX Runtime's forms of a layer, and of ``others``: fp32, int8 (dynamic; QDQ for convolutions), 4 and 2 bits.

    Args:
        dense: the weights, float32.

    Raises:
        UserError: another system is not installed.
    """
    models = {
        "gemm": lambda: _gemm(dense[0]),
        "conv": lambda: _conv(dense[0], case.attributes),
        "lstm": lambda: _lstm(*dense),
        "projected": lambda: _without_projection(case),
    }[case.kind]()
    if case.kind == "projected":
        x = np.ascontiguousarray(x[..., : case.shape[0]])
    calls = {name: bound(session(model, threads), {"x": x}) for name, model in models.items()}
    if "openvino" in others:
        calls["openvino fp32"] = _openvino(models["ort fp32"], x, threads)
    if "deepsparse" in others and case.kind in ("gemm", "conv"):  # it has no LSTM
        expected = session(models["ort fp32"], threads).run(None, {"x": x})[0]
        calls["deepsparse fp32"] = DeepSparse(models["ort fp32"], x, expected, threads)
    return calls


def _openvino(model: onnx.ModelProto, x: Array, threads: int) -> Call:
    try:
        import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise UserError("OpenVINO is not installed", where="--with", hint="pip install openvino") from error
    core = openvino.Core()
    content = fixed(model, x.shape).SerializeToString()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(content, b""), "CPU", options)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))
    return lambda: request.infer()
