"""``eie bench``: the kernels and whole models beside ONNX Runtime, timed in one process, and the machine's own limits."""
