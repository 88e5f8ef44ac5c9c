"""What to do to which layer: a TOML file, or what the command line said.

A recipe names the passes, their options, and rules. A rule selects layers by name (a shell pattern) or by operator type,
and overrides options of single passes there, or leaves the layers alone; of several rules that match, the last wins, option
by option. A ``[train]`` table says how passes train (compiler/training/settings.py). With a ``[budget]`` the steps, densities
and bits that nothing gives are searched for, for all layers together (compiler/search/choose.py), and ``--save-recipe`` writes what
was found as rules.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from eie.runtime.backends.base import ACTIVATIONS, Activations

from .errors import UserError, nearest
from .passes.base import Pass, TrainingPass, find_pass, make_pass, parse_pipeline
from .training.settings import Settings

DEFAULT = "post-training"  # without samples
WITH_DATA = "calibrated"  # with samples


@dataclass(frozen=True)
class Budget:
    """What the search may spend. Errors are signal-to-quantization-noise ratios, 10 log10(sum y^2 / sum (y - y')^2), on samples.

    Attributes:
        layer_sqnr_db: least SQNR of each compressed layer's output, its own input given, in dB; 0: no bound.
        model_sqnr_db: least SQNR of every floating-point output of the whole model, in dB: of all samples together, and that three
            quarters of them reach; 0: no bound.
        max_drop: instead of that: most that top-1 accuracy falls (without labels: half of the answers that change), a share; or most that
            ``metric`` falls, in its own unit; 0: no bound.
        metric: ``module:function``, called with outputs and data by name; "": top-1.
        size: most bytes of the artifact; latency_us: most microseconds that its compressed layers are expected to take on this
            machine; 0: as few as the rest allows.
        objective: size or latency: what is made small.
        samples: how many sample inputs to use.
        seed: of the generator that makes sample input when no data is given, and of the draw of those held back.
    """

    layer_sqnr_db: float = 30.0
    model_sqnr_db: float = 25.0
    max_drop: float = 0.0
    metric: str = ""
    size: int = 0
    latency_us: float = 0.0
    objective: str = "size"
    samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.layer_sqnr_db <= 100 and 0 <= self.model_sqnr_db <= 100):
            raise UserError("a budget's SQNR lies between 0 and 100 dB", where="budget")
        if not 0 <= self.max_drop < float("inf") or (self.max_drop >= 1 and not self.metric):
            raise UserError(f"max_drop = {self.max_drop:g} is no share from 0 to 1", where="budget", hint="0.005 is half a percent.")
        if self.size < 0 or not 0 <= self.latency_us < float("inf"):
            raise UserError("size and latency_us are 0 or more", where="budget")
        if self.objective not in ("size", "latency"):
            raise UserError(f"objective = {self.objective!r} is neither size nor latency", where="budget")
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"seed = {self.seed} is outside 0 to 2^63 - 1", where="budget")
        if not 1 <= self.samples <= 100_000:
            raise UserError(f"samples = {self.samples} is outside 1 to 100000", where="budget")


@dataclass(frozen=True)
class Rule:
    """Which layers, and what is different there.

    Attributes:
        match: shell pattern on the layer's name (``*``, ``?``, ``[...]``); None: any.
        op: ONNX operator type; None: any.
        skip: True leaves the layers alone; False takes that back; None says nothing.
        optional: True: the rule may match no layer, as in recipes that are meant for many models; otherwise that is an error.
        options: pass name -> option -> value.
    """

    match: str | None = None
    op: str | None = None
    skip: bool | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    optional: bool | None = None

    def covers(self, name: str, op: str) -> bool:
        # names hold brackets and slashes as plain characters: an exact name always matches itself
        return (self.match is None or self.match == name or fnmatchcase(name, self.match)) and self.op in (None, op)

    def __str__(self) -> str:
        return " and ".join(
            [f'match = "{self.match}"'] * (self.match is not None) + [f'op = "{self.op}"'] * (self.op is not None)
        )


class Named(Protocol):
    """What a rule looks at."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...


@dataclass(frozen=True)
class Recipe:
    """See the module's docstring. ``passes`` run in their order; canonicalize always runs first."""

    name: str = "custom"
    description: str = ""
    passes: tuple[Pass, ...] = ()
    activations: Activations = "f32"
    budget: Budget | None = None
    rules: tuple[Rule, ...] = ()
    train: Settings | None = None

    @property
    def learns(self) -> list[str]:
        """Names of the passes that learn from data."""
        return [p.name for p in self.passes if isinstance(p, TrainingPass)]

    @classmethod
    def load(cls, source: str | Path) -> Recipe:
        """A recipe file, or a preset by name.

        Raises:
            UserError: no such file or preset, bad TOML, an unknown key, pass or option, a value out of range.
        """
        if str(source) in presets():
            text = (resources.files("eie.compiler") / "presets" / f"{source}.toml").read_text()
            return cls.parse(text, str(source))
        path = Path(source)
        if path.suffix != ".toml" and not path.exists():
            raise UserError(
                "no preset of that name, and no such file", where=str(source), hint=nearest(source, presets())
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read the recipe: {error}", where=str(path)) from error
        return cls.parse(text, path.stem, where=str(path))

    @classmethod
    def parse(cls, text: str, name: str = "custom", *, where: str | None = None) -> Recipe:
        """A recipe from TOML text."""
        where = where or name
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"not valid TOML: {error}", where=where) from error
        except RecursionError as error:
            raise UserError("not valid TOML: it is nested too deeply", where=where) from error
        known = ["description", "passes", "activations", "budget", "train", "rule"]
        names = data.get("passes", ["canonicalize", "sparsify", "cluster", "encode"])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise UserError(
                'passes is a list of names, such as ["canonicalize", "cluster{bits=5}", "encode"]', where=where
            )
        passes = parse_pipeline(",".join(names))
        _only(data, [*known, *(p.name for p in passes)], where)
        passes = [make_pass(p.name, {**_given(p), **_table(data, p.name, where)}, where=where) for p in passes]
        activations = data.get("activations", "f32")
        if activations not in ACTIVATIONS:
            raise UserError(f"activations = {activations!r} is none of {', '.join(ACTIVATIONS)}", where=where)
        budget = None
        if "budget" in data:
            table = _table(data, "budget", where)
            _only(table, [f.name for f in fields(Budget)], f"{where}, [budget]")
            budget = Budget(**{k: _number(v, k, where) for k, v in table.items()})
        train = Settings.parse(_table(data, "train", where), where) if "train" in data else None
        rules = data.get("rule", [])
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            raise UserError("rules are written as [[rule]] tables", where=where)
        return cls(
            name,
            str(data.get("description", "")),
            tuple(passes),
            activations,
            budget,
            tuple(_rule(r, f"{where}, rule {i}") for i, r in enumerate(rules, 1)),
            train,
        )

    def options(self, layer: Named, step: Pass) -> Pass | None:
        """``step`` with the options that hold for ``layer``; None where the layer is left alone."""
        skip = False
        changed: dict[str, Any] = {}
        for rule in self.rules:
            if rule.covers(layer.name, layer.op):
                skip = skip if rule.skip is None else rule.skip
                changed.update(rule.options.get(step.name, {}))
        return None if skip else make_pass(step.name, {**_given(step), **changed})

    def given(self, layer: Named, step: str, option: str) -> bool:
        """Whether a rule or the recipe's own passes fix an option for a layer, so that no search may choose it."""
        return any(option in r.options.get(step, {}) for r in self.rules if r.covers(layer.name, layer.op)) or any(
            option in _given(p) for p in self.passes if p.name == step
        )

    def check(self, layers: Sequence[Named]) -> None:
        """Raises UserError for a rule that matches no layer, naming the nearest ones."""
        for rule in self.rules:
            if rule.optional or any(rule.covers(layer.name, layer.op) for layer in layers):
                continue
            if rule.match is not None:
                pool = {layer.name for layer in layers}
                wanted = rule.match.strip("*?")
                near = difflib.get_close_matches(wanted, pool, 3, 0.3) or sorted(pool)[:3]
                hint = f"The nearest: {', '.join(near)}." if near else "The model has no layer to compress."
            else:
                hint = f"Operators with layers here: {', '.join(sorted({layer.op for layer in layers})) or 'none'}."
            raise UserError(
                f"the rule with {rule} matches no layer", where=self.name, hint=f"{hint} `eie layers` lists all."
            )

    def with_rules(self, rules: Iterable[Rule]) -> Recipe:
        """This recipe with more rules after its own."""
        return replace(self, rules=(*self.rules, *rules))

    def with_ratio(self, ratio: float) -> Recipe:
        """This recipe with another total budget: weights take so many times fewer bytes.

        Raises:
            UserError: no pass has a ratio, or it is out of range.
        """
        if not ratio > 0:  # to passes 0 means that there is none
            raise UserError(f"{ratio:g} is not above 0", where="ratio", hint="100 stores weights in a hundredth of the bytes.")
        passes = [make_pass(p.name, {**_given(p), "ratio": ratio}) if _has_ratio(p) else p for p in self.passes]
        if self.budget is not None or not any(map(_has_ratio, passes)):
            raise UserError("no pass of the recipe has a total budget", where=f"{self.name}, ratio",
                            hint="The recipe deep-compression has one; so have the passes prune and cluster.")  # fmt: skip
        return replace(self, passes=tuple(passes))

    def to_toml(self, *, every: bool = False) -> str:
        """The text that ``parse`` reads back to an equal recipe.

        ``every``: options that nobody wrote down too, so that it means the same when defaults change.
        """
        lines = [
            f"description = {_toml(self.description)}",
            f"passes = {_toml([self._spelled(p, every) for p in self.passes])}",
            f"activations = {_toml(self.activations)}",
        ]
        if self.budget is not None:
            lines += ["", "[budget]", *(f"{f.name} = {_toml(getattr(self.budget, f.name))}" for f in fields(Budget))]
        if self.train is not None:
            lines += ["", "[train]", *(f"{k} = {_toml(v)}" for k, v in self.train.table(every=every).items())]
        for step in self.passes:
            options = {f.name: getattr(step, f.name) for f in fields(step)} if every else _given(step)
            if options and not self._twice(step):
                lines += ["", f"[{step.name}]", *(f"{k} = {_toml(v)}" for k, v in options.items())]
        for rule in self.rules:
            lines += ["", "[[rule]]"]
            lines += [
                f"{key} = {_toml(value)}"
                for key in ("match", "op", "skip", "optional")
                if (value := getattr(rule, key)) is not None
            ]
            lines += [
                f"{name} = {{ {', '.join(f'{k} = {_toml(v)}' for k, v in options.items())} }}"
                for name, options in rule.options.items()
            ]
        return "\n".join(lines) + "\n"

    def _twice(self, step: Pass) -> bool:
        """Whether its name does not say which pass is meant: its options stand with the name then."""
        return sum(p.name == step.name for p in self.passes) > 1

    def _spelled(self, step: Pass, every: bool) -> str:
        if not self._twice(step):
            return step.name
        options = {f.name: getattr(step, f.name) for f in fields(step)} if every else _given(step)
        return str(make_pass(step.name, options))


def presets() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("eie.compiler") / "presets"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def _given(step: Pass) -> dict[str, Any]:
    """The options of a pass that were written down, or differ from its defaults."""
    default = type(step)()
    return {
        f.name: getattr(step, f.name)
        for f in fields(step)
        if f.name in step.given or getattr(step, f.name) != getattr(default, f.name)
    }


def _has_ratio(step: Pass) -> bool:
    return any(f.name == "ratio" for f in fields(step))


def _rule(data: dict[str, Any], where: str) -> Rule:
    options = {}
    for key, value in data.items():
        if key in ("match", "op"):
            if not isinstance(value, str):
                raise UserError(f"{key} is a string", where=where)
        elif key in ("skip", "optional"):
            if not isinstance(value, bool):
                raise UserError(f"{key} is true or false", where=where)
        else:
            if not isinstance(value, dict):
                raise UserError(
                    f"{key} = {value!r} is neither match, op, skip, optional nor a pass with its options",
                    where=where,
                    hint="For example: cluster = { bits = 5 }.",
                )
            make_pass(key, value, where=where)
            whole = [f.name for f in fields(find_pass(key)) if f.metadata["whole"] and f.name in value]
            if whole:
                raise UserError(f"{key}: {whole[0]} is the same for all layers", where=where,
                                hint=f"Set it in [{key}], or in passes.")  # fmt: skip
            options[key] = value
    if "match" not in data and "op" not in data:
        raise UserError("a rule says which layers by match or op", where=where)
    return Rule(data.get("match"), data.get("op"), data.get("skip"), options, data.get("optional"))


def _only(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"unknown key {key!r}", where=where, hint=nearest(key, known))


def _table(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"[{key}] is a table of options", where=where)
    return value


def _number(value: Any, key: str, where: str) -> Any:
    kind = Budget.__dataclass_fields__[key].type
    if kind == "str":
        if not isinstance(value, str):
            raise UserError(f"{key} = {value!r} is no string", where=where)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind == "int" and not isinstance(value, int)):
        raise UserError(f"{key} = {value!r} is no {'whole ' if kind == 'int' else ''}number", where=where)
    return value if kind == "int" else float(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in text) + '"'
