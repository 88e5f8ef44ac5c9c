"""Builds the C core: two shared objects from the same objects.

``eie.runtime._core`` is the cffi binding, ``eie.runtime._ortops`` the custom-op library ONNX Runtime loads. Each file of
the core is compiled once, with the flags its instruction set needs (by its name: ``*_avx2.c``, ``*_avx512.c``,
``*_neon.c``); which one runs is decided when the library is loaded.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
os.chdir(ROOT)
CORE = sorted(
    p.as_posix()
    for folder in ("codec", "kernels", "ops", "cluster", "hardware", "bench")
    for p in Path("csrc", folder).glob("*.c")
)
HEADERS = sorted(p.as_posix() for pattern in ("*.h", "*.inc") for p in Path("csrc").rglob(pattern))
ORT = sorted(p.as_posix() for p in Path("csrc", "ort").glob("*.c"))
BINDING = "build/eie_binding.c"

X86 = platform.machine().lower() in {"x86_64", "amd64", "i686", "x86"}
ARM64 = platform.machine().lower() in {"aarch64", "arm64"}
GNU = ["-std=c11", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]
# msvc compiles the scalar kernels only: the others are written for gcc and clang
BASE = ["/O2", "/std:c11", "/fp:precise"] if sys.platform == "win32" else GNU
FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vbmi", "-mavx512vnni", "-mfma"],
}


def flags(source: str) -> list[str]:
    if X86 and sys.platform != "win32":
        return BASE + next((f for suffix, f in FLAGS.items() if Path(source).stem.endswith(suffix)), [])
    return BASE


def binding() -> str:
    """The cffi binding's C source, from the public header's declarations."""
    from cffi import FFI

    header = Path("csrc/include/eie.h").read_text()
    found = re.search(r"/\* CDEF BEGIN \*/(.*)/\* CDEF END \*/", header, re.S)
    assert found, "csrc/include/eie.h lost its CDEF markers"
    ffi = FFI()
    ffi.cdef(found.group(1))
    ffi.set_source("eie.runtime._core", '#include "eie.h"\n', py_limited_api=True)
    Path(BINDING).parent.mkdir(parents=True, exist_ok=True)
    ffi.emit_c_code(BINDING)
    return BINDING


class BuildCore(build_ext):
    """Compiles the core's files once and links them into both extensions."""

    def run(self) -> None:
        binding()
        super().run()

    def build_extensions(self) -> None:
        objects: list[str] = []
        for source in CORE:
            objects += self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=["csrc/include", "csrc"],
                extra_postargs=flags(source),
                depends=HEADERS,
            )
        for extension in self.extensions:
            extension.extra_objects = objects
        super().build_extensions()


LIBRARIES = [] if sys.platform == "win32" else ["m", "pthread"]
COMMON = {
    "include_dirs": ["csrc/include", "csrc"],
    "depends": CORE + HEADERS,
    "libraries": LIBRARIES,
    "extra_compile_args": BASE,
}
extensions = [
    Extension(
        "eie.runtime._core", [BINDING], py_limited_api=True, define_macros=[("Py_LIMITED_API", "0x030B0000")], **COMMON
    ),
    Extension("eie.runtime._ortops", ORT, py_limited_api=True, **COMMON),
]

packages = {"eie.compiler": "compiler", "eie.runtime": "runtime"}
setup(
    packages=[
        name for root, folder in packages.items() for name in [root, *(f"{root}.{p}" for p in find_packages(folder))]
    ],
    package_dir=packages,
    package_data={
        "eie.compiler": ["presets/*.toml", "py.typed"],
        "eie.runtime": ["hardware/presets/*.toml", "py.typed"],
    },
    ext_modules=extensions,
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
