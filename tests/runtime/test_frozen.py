"""The frozen artifact of version 1 is read for ever, and answers the same bits on every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eie.runtime import Session

FOLDER = Path(__file__).parents[1] / "fixtures" / "v1"


@pytest.mark.parametrize("backend", ["reference", "cpu", "ort"])
@pytest.mark.parametrize("activations", ["i16", "u8"])
def test_the_frozen_artifact_answers_as_ever(backend: str, activations: Any) -> None:
    stored = np.load(FOLDER / "artifact.npz")
    session = Session(FOLDER / "artifact.eie.onnx", backend, activations=activations)
    feeds = {a.name: stored[a.name] for a in session.get_inputs()}
    names = [a.name for a in session.get_outputs()]
    assert len(names) == 9
    for name, got in zip(names, session.run(names, feeds), strict=True):
        np.testing.assert_array_equal(got, stored[f"{activations}:{name}"], err_msg=name)
