"""What a pass is, and how passes are found and written down.

A pass is a frozen dataclass: its name in kebab case and its fields are its options, on the command line
(``sparsify{density=0.1}``) as in recipes. It takes a model and changes it in place; it reports whether it did, and what it did
to each layer or why it left the layer alone.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..analysis.layers import Layer, find_layers
from ..errors import UserError, nearest
from ..ir.graph import Model

if TYPE_CHECKING:
    from ..training.trainer import Training

Select = Callable[[Layer], bool]
Layers = Sequence[Layer] | None

REGISTRY = {  # name -> module of this package and class in it; imported when first asked for
    "canonicalize": ("canonicalize", "Canonicalize"),
    "sparsify": ("sparsify", "Sparsify"),
    "cluster": ("cluster", "Cluster"),
    "ternarize": ("ternarize", "Ternarize"),
    "prune": ("prune", "Prune"),
    "share": ("share", "Share"),
    "retrain": ("retrain", "Retrain"),
    "dsd": ("dsd", "Dsd"),
    "ttq": ("ttq", "Ttq"),
    "fold-units": ("fold_units", "FoldUnits"),
    "reconstruct": ("reconstruct", "Reconstruct"),
    "encode": ("encode", "Encode"),
}


NO_DATA = "there is no training data"


@dataclass(frozen=True)
class LedgerEntry:
    """What a pass did to a layer.

    Attributes:
        layer: its name.
        action: what was done, a few words; "" where nothing was.
        reason: why the layer was left alone; "" where it was not.
        kept: share of weights that are not zero afterwards.
        error: |W - W'| / |W| of this pass alone.
    """

    layer: str
    action: str = ""
    reason: str = ""
    kept: float = 1.0
    error: float = 0.0


@dataclass(frozen=True)
class PassResult:
    """Whether the model changed, and a ledger entry for each layer that was selected."""

    changed: bool
    ledger: tuple[LedgerEntry, ...] = ()


def every(layer: Layer) -> bool:
    """Selects all layers."""
    return True


def all_layers(model: Model, layers: Layers) -> Sequence[Layer]:
    """The layers given, or those that are found."""
    return find_layers(model)[0] if layers is None else layers


@dataclass(frozen=True)
class Pass:
    """Base of all passes. See the module's docstring.

    Class attributes:
        name: in kebab case.
        requires, ensures: facts that must hold before, and hold after: ``canonical``, ``shared``.
        reshapes: it may give weights other shapes.

    Attributes:
        given: names of the options somebody wrote down, be it with the default's value: no search may choose those.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()
    reshapes: ClassVar[bool] = False
    given = frozenset[str]()

    @property
    def undoes(self) -> frozenset[str]:
        """Facts that it would undo: it has to come before they hold."""
        return frozenset()

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        """Change ``model`` in place, but only the layers ``select`` allows.

        Args:
            layers: all that the model has, for every pass of a run the same (what looks designed, or stops looking like a
                weight halfway, is a layer to all of them or to none); found when left out.
        """
        raise TypeError(f"{type(self).__name__} has no run")

    def __str__(self) -> str:
        given = ",".join(
            f"{f.name}={_spell(getattr(self, f.name))}"
            for f in fields(self)
            if f.name in self.given or getattr(self, f.name) != f.default
        )
        return f"{self.name}{{{given}}}" if given else self.name


@dataclass(frozen=True)
class TrainingPass(Pass):
    """A pass that learns from data (docs/decisions/0010). Without data, ``run`` does what can be done without: nothing, unless a
    pass knows better."""

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        chosen = filter(select, all_layers(model, layers))
        return PassResult(False, tuple(LedgerEntry(la.name, reason=NO_DATA) for la in chosen))

    def train(
        self, model: Model, layers: Sequence[Layer], chosen: Mapping[str, Self], training: Training
    ) -> PassResult:
        """Change ``model`` in place, all layers together.

        Args:
            layers: all that the model has, as in ``run``.
            chosen: layer name -> this pass with the options that hold there; other layers' weights stay as they are. Options
                of the training itself, such as epochs, are those of ``self``.
            training: data and settings, and ``fit``.
        """
        raise TypeError(f"{type(self).__name__} has no train")


def option(
    default: Any,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    whole: bool = False,
) -> Any:
    """A field of a pass: its default, its meaning with units, and what it may be. ``whole``: it is of the pass as a whole, the same
    for all layers, so that no rule may set it."""
    limits = {"about": about, "low": low, "high": high, "choices": choices, "whole": whole}
    return field(default=default, metadata=limits)


def find_pass(name: str, *, where: str = "passes") -> type[Pass]:
    """The class of a pass.

    Raises:
        UserError: there is none of that name; names the nearest.
    """
    if name not in REGISTRY:
        raise UserError(f"no pass is called {name!r}", where=where, hint=nearest(name, REGISTRY))
    module, attribute = REGISTRY[name]
    found: type[Pass] = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return found


def make_pass(name: str, options: Mapping[str, Any], *, where: str = "passes") -> Pass:
    """A pass with options given as Python values, or as text as on the command line.

    Raises:
        UserError: an unknown pass or option, or a value of the wrong type or out of range.
    """
    kind = find_pass(name, where=where)
    known = {f.name: f for f in fields(kind)}
    values = {}
    for key, value in options.items():
        if key not in known:
            raise UserError(f"{name} has no option {key!r}", where=where, hint=nearest(key, known))
        values[key] = _value(name, known[key], value, where)
    step = kind(**values)
    object.__setattr__(step, "given", frozenset(values))
    return step


def check_order(passes: Sequence[Pass], *, where: str = "passes") -> None:
    """Raises UserError where a pass comes before what it requires; canonicalize always runs first."""
    facts = set(find_pass("canonicalize").ensures)
    for at, step in enumerate(passes):
        for fact in sorted(step.undoes & facts):
            maker = next(p for p in passes[:at] if fact in p.ensures)
            raise UserError(f"{step} would undo what {maker.name} does before it", where=where,
                            hint=f"Put {step.name} before {maker.name}.")  # fmt: skip
        for fact in sorted(step.requires - facts):
            makers = [name for name in REGISTRY if fact in find_pass(name).ensures]
            raise UserError(f"{step.name} needs weights that are {fact}, and no pass before it makes them so", where=where,
                            hint=f"Put {' or '.join(makers)} before it.")  # fmt: skip
        facts |= step.ensures


def _value(name: str, spec: Any, value: Any, where: str) -> Any:
    default, limits = spec.default, spec.metadata
    assert default is not MISSING, f"{name}.{spec.name} needs a default"
    what = f"{name}: {spec.name} = {value!r}"
    if limits["choices"]:
        if value not in limits["choices"]:
            raise UserError(f"{what} is none of {', '.join(limits['choices'])}", where=where)
        return value
    if isinstance(default, str):
        return str(value)
    try:
        number = type(default)(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None or number != number or (isinstance(default, int) and float(value) != number):
        raise UserError(f"{what} is no {'whole ' if isinstance(default, int) else ''}number", where=where)
    low, high = limits["low"], limits["high"]
    if (low is not None and number < low) or (high is not None and number > high):
        raise UserError(
            f"{what} is outside {low:g} to {high:g}" if high is not None else f"{what} is below {low:g}", where=where
        )
    return number


def parse_pipeline(text: str, *, where: str = "passes") -> list[Pass]:
    """``"sparsify{density=0.1},cluster{bits=4},encode"`` as passes; ``str`` of each gives the text back.

    Raises:
        UserError: it does not read so, or ``make_pass`` refuses.
    """
    found = []
    rest = text.strip()
    while rest:
        match = re.match(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)", rest)
        if not match:
            raise UserError(
                f"can't read {rest!r}", where=where, hint='Passes are written "name{option=value,option=value},name".'
            )
        options = {}
        for item in filter(None, (part.strip() for part in (match[2] or "").split(","))):
            key, equals, value = item.partition("=")
            if not equals:
                raise UserError(
                    f"{match[1]}: can't read the option {item!r}", where=where, hint="Options are written name=value."
                )
            options[key.strip()] = value.strip()
        found.append(make_pass(match[1], options, where=where))
        rest = rest[match.end() :]
    if not found:
        raise UserError(
            "no pass is named", where=where, hint='For example: "sparsify{density=0.1},cluster{bits=4},encode".'
        )
    return found


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
