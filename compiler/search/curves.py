"""What compressing a layer costs and brings: its output error, its bytes and its expected time, for every way the recipe leaves open.

Each point runs the real passes and the real encoder on the layer (on a part of its outputs where it is large: the error is a mean
over outputs, and bytes are in proportion). Points of a model are kept in a folder by the hash of all they depend on, so that the
same question is answered at once the second time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime.backends.base import Activations
from eie.runtime.backends.cpu import isa, verdict_of
from eie.runtime.format import encode
from eie.runtime.weight import Weight

from ..analysis.calibration import Calibration
from ..analysis.form import Form
from ..analysis.layers import Layer
from ..analysis.moments import Moments
from ..analysis.undo import undone
from ..data import hash_arrays
from ..errors import UserError
from ..files import write_beside
from ..ir.graph import Model
from ..passes.base import Pass, make_pass
from ..passes.cluster import Cluster
from ..passes.reconstruct import Reconstruct, correct_bias, has_bias
from ..passes.sparsify import Sparsify
from ..passes.ternarize import Ternarize
from ..recipe import Recipe, Rule
from ..spread import spread

Array = npt.NDArray[Any]
Options = Mapping[str, Mapping[str, Any]]

VERSION = 5  # of what is kept: another number where the same question has another answer
STEPS = (0.03, 0.06, 0.1, 0.17, 0.28, 0.45, 0.7, 1.1, 1.7, 2.6, 4.0)
DENSITIES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05, 0.03)
FEW_DENSITIES = (1.0, 0.5, 0.3, 0.18, 0.1, 0.05)
BITS = (3, 4, 5, 6, 8)
_FITTED_BITS = (6, 7, 8)
_REFERENCE = 1e-2  # of error, at which a layer's reach is measured
_WEIGHTS = 1 << 18  # a larger layer is tried on as many of its weights
_LOWERED = {
    "MatMul": "Gemm",
    "Gemm": "Gemm",
    "Conv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "LSTM": "LSTM",
    "GRU": "GRU",
}


@dataclass(frozen=True)
class Point:
    """One way to compress a layer.

    Attributes:
        options: of the recipe's passes, by pass; empty: the layer is left as it is.
        noise: |y - y'|^2 / |y|^2 of its output, inputs unchanged.
        bytes: of its payload.
        us: expected time of a run on this machine, microseconds; 0: not known.
        kept: share of weights that are not zero.
        bits: of a code.
    """

    options: Options
    noise: float
    bytes: float
    us: float
    kept: float
    bits: int

    @property
    def plain(self) -> bool:
        return not self.options


@dataclass(frozen=True)
class Curve:
    """All points tried for a layer.

    Attributes:
        layer: its name.
        points: in the order they were tried; the last one leaves it as it is.
        rows: inputs seen; 0: none, and they are taken to be white.
        reach: how much of its output's relative error arrives at the model's outputs, energies both.
    """

    layer: str
    points: tuple[Point, ...]
    rows: int
    reach: float = 1.0


def rule_of(layer: str, point: Point) -> Rule:
    """The recipe's rule that compresses a layer so."""
    if point.plain:
        return Rule(match=layer, skip=True)
    return Rule(match=layer, options={name: dict(options) for name, options in point.options.items()})


@dataclass(frozen=True)
class _Task:
    """A layer as a process elsewhere needs it."""

    name: str
    form: Form
    array: Array
    moments: Moments
    centred: bool
    share: float  # of the layer's weights that ``array`` holds
    bytes: int
    lowered: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[tuple[Options, tuple[Pass, ...]], ...] = ()
    activations: Activations = "f32"


def measure(
    model: Model,
    layers: Sequence[Layer],
    recipe: Recipe,
    calibration: Calibration,
    *,
    timed: bool = False,
    trusted: bool = True,
    grid: Sequence[tuple[float, int]] = (),
    jobs: int = 1,
    dask: str | None = None,
    cache: Cache | None = None,
    arrives: Callable[[], float] | None = None,
    salt: str = "",
    progress: Callable[[str], None] = lambda name: None,
) -> list[Curve]:
    """A curve for each layer.

    Args:
        arrives: error energy at the worst output of the model as it is now, by its own: for ``Curve.reach``.
        salt: what else the answer depends on.
        timed: try more densities: time follows from them.
        grid: densities and bits to try beside what is tried anyway.
        trusted: the samples are real: codes are chosen by them. Otherwise they only say how large the error is.
        jobs, dask: where to work, as in compiler/spread.py.
        cache: where answers are kept.
    """
    found: dict[str, Curve] = {}
    key = _key(model, layers, recipe, calibration, f"{timed} {trusted} {grid} {salt}") if cache is not None else ""
    known = cache.get(key) if cache is not None else None
    if known is not None and [c.layer for c in known] == [layer.name for layer in layers]:
        return known
    for part, moments in calibration.whole(model, layers):
        tasks = [_task(layer, moments.get(layer.name), recipe, timed, trusted, grid) for layer in part]
        answers = spread(functools.partial(_curve, trusted=trusted), tasks, jobs=jobs, dask=dask)
        for layer, task, curve in zip(part, tasks, answers, strict=True):
            progress(task.name)
            if arrives is not None:
                curve = replace(curve, reach=_reach(model, layer, task, curve, arrives, trusted))
            found[task.name] = curve
    curves = [found[layer.name] for layer in layers]
    if cache is not None:
        cache.put(key, curves)
    return curves


def _reach(model: Model, layer: Layer, task: _Task, curve: Curve, arrives: Callable[[], float], trusted: bool) -> float:
    """The model is measured with one layer changed."""
    tried = [(p, c) for p, c in zip(curve.points, task.candidates, strict=False) if 0 < p.noise < 1]
    if not tried:
        return 1.0
    _, (_, passes) = min(tried, key=lambda t: abs(math.log(t[0].noise / _REFERENCE)))
    form, before = Form.of(layer), layer.array()
    weight, centred = compressed(form, before, passes, task.moments, task.centred, trusted=trusted)
    difference = form.matrix(before) - form.matrix(weight.dense())
    signal = task.moments.noise(form.matrix(before))
    own = task.moments.noise(difference, centred=centred) / signal if signal > 0 else 0.0
    with undone(model):
        layer.set_weight(weight)
        if centred:
            correct_bias(layer, task.moments.shift(form.matrix(before), form.matrix(weight.dense())))
        arrived = arrives()
    if own <= 0 or arrived <= 0:
        return 1e-9
    return min(1e6, arrived / own) if math.isfinite(arrived) else 1e6


def _task(
    layer: Layer, moments: Moments | None, recipe: Recipe, timed: bool, trusted: bool, grid: Sequence[tuple[float, int]]
) -> _Task:
    form, array = Form.of(layer), layer.array()
    known = moments if moments is not None else Moments.white(form.width)
    part, share = form.rows(_WEIGHTS), 1.0
    if part is not None:
        picked = form.matrix(array)[:, part[1]]
        share = picked.size / array.size
        form, array = part[0], part[0].array(picked)
    tried = open_options(recipe, layer, timed, trusted) + _gridded(recipe, grid)
    candidates = tuple((o, passes_with(recipe, layer, o)) for o in {repr(o): o for o in tried}.values())
    attributes = {name: layer.node.get(name) for name in layer.node.attributes}
    return _Task(layer.name, form, array, known, has_bias(layer), share, layer.constant.nbytes,
                 _LOWERED.get(layer.op, ""), attributes, candidates, recipe.activations)  # fmt: skip


def _curve(task: _Task, trusted: bool) -> Curve:
    matrix = task.form.matrix(task.array)
    signal = task.moments.noise(matrix)
    points = [_point(task, matrix, signal, options, passes, trusted) for options, passes in task.candidates]
    full = Weight(np.ones(task.array.shape, np.uint8), np.array([0.0, 1.0], np.float32))
    points.append(Point({}, 0.0, task.bytes, expected_us(task, full), 1.0, 32))
    return Curve(task.name, tuple(points), task.moments.rows)


def _point(task: _Task, matrix: Array, signal: float, options: Options, passes: Sequence[Pass], trusted: bool) -> Point:
    weight, centred = compressed(task.form, task.array, passes, task.moments, task.centred, trusted=trusted)
    noise = task.moments.noise(matrix - task.form.matrix(weight.dense()), centred=centred)
    ratio = noise / signal if signal > 0 else float(noise > 0)
    size = len(encode(weight))
    fixed = min(size, 60 + 3 * weight.codebook.size)
    return Point(
        options, ratio, fixed + (size - fixed) / task.share, expected_us(task, weight), weight.density, weight.bits
    )


def compressed(
    form: Form, array: Array, passes: Sequence[Pass], moments: Moments, has_bias: bool, *, trusted: bool = True
) -> tuple[Weight, bool]:
    """What passes make of a weight, and whether its bias takes up the mean of what changed."""
    weight: Weight | None = None
    centred = False
    for step in passes:
        if isinstance(step, Sparsify):
            array = np.where(step.mask(array, form.op), array, 0)
        elif isinstance(step, Cluster):
            weight = step.share(array)
        elif isinstance(step, Ternarize):
            weight = step.ternary(array)
        elif isinstance(step, Reconstruct):
            known = moments if trusted else Moments.white(form.width)
            centred = step.corrects(known, has_bias)
            codes, values, _ = step.codes(form.matrix(array), known, form, centred=centred)
            weight = Weight(form.array(codes), values, step.kind)
    return (weight if weight is not None else Cluster(bits=8).share(array)), centred


def expected_us(task: _Task, weight: Weight) -> float:
    """Microseconds that the layer is expected to take in a run, on this machine; 0: not known."""
    if not task.lowered:
        return 0.0
    verdict = verdict_of(task.lowered, task.attributes, weight, task.activations)
    return verdict.vector_ns / task.share * task.moments.vectors / 1e3


# -- what a recipe leaves open ---------------------------------------------------------------------------------------------


def passes_with(recipe: Recipe, layer: Layer, options: Options) -> tuple[Pass, ...]:
    """The recipe's passes that change a layer's weights, with options of the layer's own and ``options``."""
    found = []
    for step in recipe.passes:
        own = recipe.options(layer, step)
        if own is None or not isinstance(own, Sparsify | Cluster | Ternarize | Reconstruct):
            continue
        given = {f.name: getattr(own, f.name) for f in fields(own)}
        found.append(make_pass(own.name, {**given, **options.get(own.name, {})}))
    return tuple(found)


def open_options(recipe: Recipe, layer: Layer, timed: bool, trusted: bool = True) -> list[Options]:
    """Every combination tried of the options that nothing in the recipe gives for a layer.

    A codebook that somebody fitted is kept as it is where there are no samples to say what changing it would cost.
    """
    steps = {type(p): own for p in recipe.passes if (own := recipe.options(layer, p)) is not None}
    fixed = {
        (kind.name, option)
        for kind in steps
        for option in ("step", "density", "bits", "threshold", "pattern")
        if recipe.given(layer, kind.name, option)
    }
    found: list[Options] = []
    if Reconstruct in steps:
        own = steps[Reconstruct]
        assert isinstance(own, Reconstruct)
        if not fixed and not trusted and fitted_codebook(layer.array()):
            return [{"reconstruct": {"step": 0.0, "bits": 8}}]
        counted = ":" in own.pattern
        free = ("reconstruct", "density") not in fixed and not counted
        densities: Iterable[float] = (
            FEW_DENSITIES if free and (timed or own.pattern != "unstructured") else (own.density,)
        )
        if ("reconstruct", "step") in fixed or ("reconstruct", "bits") in fixed:
            found = [{"reconstruct": {"step": own.step, "bits": own.bits, "density": d}} for d in densities]
        else:
            found = [
                {"reconstruct": {"step": s, **({"density": d} if d < 1 else {})}} for d in densities for s in STEPS
            ]
        if not fixed:  # fitted values: exact where weights are shared already, and finer than any grid where a few are far from all others
            found += [{"reconstruct": {"step": 0.0, "bits": b}} for b in _FITTED_BITS]
        return found
    shares: Sequence[float | None] = (None,)
    bits: Sequence[int | None] = (None,)
    if Sparsify in steps and not {("sparsify", "density"), ("sparsify", "threshold")} & fixed:
        own_sparsify = steps[Sparsify]
        assert isinstance(own_sparsify, Sparsify)
        shares = (None,) if ":" in own_sparsify.pattern else DENSITIES
    if Cluster in steps and ("cluster", "bits") not in fixed:
        bits = BITS
    if not fixed and Cluster in steps and fitted_codebook(layer.array()):
        return [
            {"sparsify": {"density": 1.0}, "cluster": {"bits": 8}} if Sparsify in steps else {"cluster": {"bits": 8}}
        ]
    for d in shares:
        for b in bits:
            chosen: dict[str, dict[str, Any]] = {}
            if d is not None:
                chosen["sparsify"] = {"density": d}
            if b is not None:
                chosen["cluster"] = {"bits": b}
            found.append(chosen or {step.name: {} for step in steps.values() if not isinstance(step, Reconstruct)})
    return found


def grid_of(densities: Sequence[float], bits: Sequence[int]) -> list[tuple[float, int]]:
    """Every density with every number of bits."""
    return [(d, b) for d in densities for b in bits]


def _gridded(recipe: Recipe, grid: Sequence[tuple[float, int]]) -> list[Options]:
    if any(isinstance(p, Reconstruct) for p in recipe.passes):
        return [{"reconstruct": {"step": 0.0, "density": d, "bits": b}} for d, b in grid]
    have = {p.name for p in recipe.passes}
    made = [{name: o for name, o in (("sparsify", {"density": d}), ("cluster", {"bits": b})) if name in have} for d, b in grid]
    return [options for options in made if options]


def fitted_codebook(values: npt.NDArray[np.floating]) -> bool:
    """Whether the distinct non-zero values look like a codebook somebody fitted, not like the grid of a number format.

    A grid (int8, say, times a scale) has all values at whole multiples of one step; centroids have no such step.
    """
    distinct = np.unique(values)
    distinct = distinct[distinct != 0].astype(np.float64)
    if not 1 < distinct.size <= 255:
        return False
    steps = np.diff(distinct)
    multiples = steps / steps.min()
    off = np.abs(multiples - np.rint(multiples)) > 1e-3 * np.maximum(1, multiples)
    return bool(off.mean() > 0.25)


# -- answers kept ----------------------------------------------------------------------------------------------------------


class Cache:
    """Curves in a folder, a file a question. A folder that can't be used is as good as none.

    Args:
        folder: where; ``EIE_CACHE``, or ``eie`` below ``XDG_CACHE_HOME`` (``~/.cache``), when left out.
    """

    def __init__(self, folder: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        self.folder = (
            folder if folder is not None else Path(os.environ.get("EIE_CACHE") or Path(home) / "eie") / "curves"
        )

    def get(self, key: str) -> list[Curve] | None:
        try:
            held = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            return [_kept_curve(c) for c in held]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, UserError):
            return None

    def put(self, key: str, curves: Sequence[Curve]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_beside(self.folder / f"{key}.json") as stream:
                stream.write(json.dumps([asdict(c) for c in curves]).encode())
        except (OSError, UserError):
            return


def _kept_curve(held: Any) -> Curve:
    """A curve as it was kept; anything may be in a file.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, UserError: it is none.
    """
    points = tuple(Point(**p) for p in held["points"])
    numbers = [held["rows"], held["reach"], *(n for p in points for n in (p.noise, p.bytes, p.us, p.kept, p.bits))]
    if not all(type(n) in (int, float) and n >= 0 for n in numbers) or not points or not points[-1].plain:
        raise ValueError("no curve")
    for point in points:
        for name, options in point.options.items():
            make_pass(name, options)
    return Curve(str(held["layer"]), points, held["rows"], held["reach"])


def _key(model: Model, layers: Sequence[Layer], recipe: Recipe, calibration: Calibration, salt: str) -> str:
    digest = hashlib.sha256(f"{VERSION} {recipe.to_toml(every=True)} {salt} {calibration.seed} {isa()}".encode())
    for graph, node in model.graph.walk():
        digest.update(f"{node.domain}{node.op}{node.inputs}{node.outputs}".encode("utf-8", "surrogateescape"))
        digest.update(b"".join(a.SerializeToString(deterministic=True) for _, a in sorted(node.attributes.items())))
        for tensor in node.inputs:
            constant = graph.constant(tensor) if tensor else None
            if constant is not None and constant.data_type != 8:
                digest.update(np.ascontiguousarray(constant.array()).view(np.uint8).data)
    digest.update(repr([layer.name for layer in layers]).encode("utf-8", "surrogateescape"))
    for feed in calibration.feeds:
        hash_arrays(digest, feed)
    return digest.hexdigest()[:32]
