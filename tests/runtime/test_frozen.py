"""The frozen artifact of version 1 is read for ever, and answers the same bits on every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eie.runtime import Session

FOLDER = Path(__file__).parents[1] / "fixtures" / "v1"


FORMATS = [
    (b, a) for b in ("reference", "cpu", "ort", "hardware") for a in ("i16", "u8") if (b, a) != ("hardware", "u8")
]


@pytest.mark.parametrize(("backend", "activations"), FORMATS)
def test_the_frozen_artifact_answers_as_ever(backend: str, activations: Any) -> None:
    stored = np.load(FOLDER / "artifact.npz")
    session = Session(FOLDER / "artifact.eie.onnx", backend, activations=activations)
    feeds = {a.name: stored[a.name] for a in session.get_inputs()}
    names = [a.name for a in session.get_outputs()]
    assert len(names) == 9
    for name, got in zip(names, session.run(names, feeds), strict=True):
        np.testing.assert_array_equal(got, stored[f"{activations}:{name}"], err_msg=name)
