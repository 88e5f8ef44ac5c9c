"""Recipes: what they read, what they refuse, and that what is saved reads back the same."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from eie.compiler.errors import UserError
from eie.compiler.passes.base import REGISTRY, find_pass
from eie.compiler.recipe import Recipe, Rule, presets


@dataclass(frozen=True)
class Fake:
    name: str
    op: str


LAYERS = [Fake("fire2/squeeze", "Conv"), Fake("fire2/expand", "Conv"), Fake("fc[0]", "Gemm")]


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_survive_saving(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.description
    again = Recipe.parse(recipe.to_toml(), name)
    assert again == recipe


def test_the_issue_names_these_presets() -> None:
    assert {"post-training", "deep-compression", "ese", "ttq"} <= set(presets())


def test_last_matching_rule_wins_option_by_option() -> None:
    recipe = Recipe.parse("""
        passes = ["sparsify{density=0.5}", "cluster{bits=5}", "encode"]
        [[rule]]
        op = "Conv"
        cluster = { bits = 8 }
        sparsify = { density = 0.4 }
        [[rule]]
        match = "fire2/*"
        cluster = { bits = 6 }
    """)
    sparsify, cluster, _ = recipe.passes
    conv = recipe.options(LAYERS[0], cluster), recipe.options(LAYERS[0], sparsify)
    assert (conv[0].bits, conv[1].density) == (6, 0.4)
    gemm = recipe.options(LAYERS[2], cluster), recipe.options(LAYERS[2], sparsify)
    assert (gemm[0].bits, gemm[1].density) == (5, 0.5)
    assert recipe.given(LAYERS[2], "cluster", "bits")
    assert not Recipe.load("post-training").given(LAYERS[2], "cluster", "bits")


def test_skip_and_its_undoing() -> None:
    recipe = Recipe.parse('[[rule]]\nmatch = "*"\nskip = true\n[[rule]]\nop = "Gemm"\nskip = false\n')
    assert recipe.options(LAYERS[0], recipe.passes[1]) is None
    assert recipe.options(LAYERS[2], recipe.passes[1]) is not None


def test_a_name_with_brackets_matches_itself() -> None:
    assert Rule(match="fc[0]").covers("fc[0]", "Gemm")


def test_a_rule_that_matches_nothing_names_the_nearest() -> None:
    recipe = Recipe.parse('[[rule]]\nmatch = "fire2/sqeeze"\nskip = true\n', "mine")
    with pytest.raises(UserError, match="matches no layer") as caught:
        recipe.check(LAYERS)
    assert "fire2/squeeze" in str(caught.value)
    with pytest.raises(UserError, match="Conv, Gemm"):
        Recipe.parse('[[rule]]\nop = "LSTM"\nskip = true\n').check(LAYERS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("passes = 3", "list of names"),
        ('passes = ["shrink"]', "shrink"),
        ('passes = ["cluster{bit=3}"]', "bit"),
        ('passes = ["cluster{bits=99}"]', "bits"),
        ("[clutser]\nbits = 4", "Did you mean 'cluster'"),
        ('activations = "f64"', "f32, i16, u8"),
        ("[budget]\nlayer_sqnr_db = -3", "between 0 and 100"),
        ('[budget]\nsamples = "many"', "number"),
        ("[budget]\nsamples = 1.5", "whole number"),
        ("[[rule]]\nskip = true", "match or op"),
        ('[[rule]]\nmatch = "a"\nskip = "yes"', "true or false"),
        ('[[rule]]\nmatch = "a"\nbits = 3', "neither match, op, skip"),
        ('[[rule]]\nmatch = "a"\ncluster = { bits = 0 }', "bits"),
        ("rule = 3", r"\[\[rule\]\]"),
        ("this is not toml", "not valid TOML"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Recipe.parse(text, "mine.toml")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="deep-compression"):
        Recipe.load("deep-compresion")
    path = tmp_path / "recipe.toml"
    with pytest.raises(UserError, match="can't read"):
        Recipe.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="can't read"):
        Recipe.load(path)
    path.write_text('passes = ["cluster{bits=3}", "encode"]\n')
    assert Recipe.load(path).passes[0].bits == 3


def test_every_preset_is_for_any_model() -> None:
    for name in presets():
        recipe = Recipe.load(name)
        recipe.check([Fake("only", "Gather")])
        assert Recipe.parse(recipe.to_toml(), name=recipe.name) == recipe


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "passes.md").read_text()
    for name in REGISTRY:
        assert f"`{name}`" in text
        for option in fields(find_pass(name)):
            assert f"| `{option.name}` |" in text, f"{name}.{option.name}"
