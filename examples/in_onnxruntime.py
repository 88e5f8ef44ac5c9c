"""Runs an artifact in plain ONNX Runtime, with nothing of this package but its custom-op library.

optimize models/lenet-300-100.onnx -o lenet.eie.onnx
python examples/in_onnxruntime.py lenet.eie.onnx
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime

from eie.runtime import custom_op_library


def main(path: str) -> None:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(custom_op_library())
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8", "tensor(bool)": "?",
             "tensor(uint8)": "u1", "tensor(int8)": "i1", "tensor(int32)": "i4", "tensor(int64)": "i8"}  # fmt: skip
    feeds = {
        i.name: np.ones([d if isinstance(d, int) else 1 for d in i.shape], types[i.type]) for i in session.get_inputs()
    }
    for info, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        print(info.name, value.shape, value.reshape(-1)[:5])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
