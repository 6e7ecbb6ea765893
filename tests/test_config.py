"""Experiment cards and overrides: what can be set, and what a mistake is told."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource, Sampling, Verification
from dsi_jax.config import load, override_field, variants

CONFIGS = Path(__file__).parent.parent / "configs"
CARDS = sorted(set(CONFIGS.glob("*.py")) - {CONFIGS / "chips.py"})  # which is a table


def get(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 1
    path: str | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
    """A field of every type that overrides can set."""

    whole: int = 1
    real: float = 1.0
    flag: bool = False
    text: str = ""
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    choice: Literal["red", "blue"] = "red"
    number_or_auto: int | Literal["auto"] = "auto"
    rule: Verification = Verification.COUPLED
    maybe: int | None = 3
    inner: Inner = Inner()


# ------------------------------------------------------------------------------------------------------------ cards


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_every_card_loads_and_says_what_to_expect(card):
    config = load(card)
    assert dataclasses.is_dataclass(config)
    docstring = card.read_text(encoding="utf-8").split('"""')[1]
    kinds = (
        ("train", "train"),
        ("table", "reproduce"),
        ("crossover", "reproduce"),
        ("scale", "reproduce"),
        ("chips", "plan"),
    )
    launcher = next((name for part, name in kinds if part in card.stem), "generate")
    assert f"launch/{launcher}.py" in docstring
    if card.stem not in ("two_directories", "chips"):  # a form for the user's own models, and a table
        assert "Expected:" in docstring


def test_the_demo_card_is_the_papers_node():
    config = load(CONFIGS / "demo.py", kind=Config)
    assert config.mesh == MeshConfig(sp_degree=7)
    assert config.mesh.devices == 8
    assert (config.target.path, config.drafter.model.path) == ("embedded:target", "embedded:drafter")


def test_the_default_config_is_the_embedded_pair_on_two_devices():
    assert Config().drafter == DrafterConfig(kind="model", model=ModelSource("embedded:drafter"))
    assert Config().mesh.devices == 2


def test_load_applies_overrides_in_order():
    config = load(CONFIGS / "demo.py", ["mesh.sp_degree=3", "max_new_tokens=5", "mesh.sp_degree=4"])
    assert (config.mesh.sp_degree, config.max_new_tokens) == (4, 5)


# --------------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("whole=7", 7),
        ("whole=-7", -7),
        ("real=2", 2.0),
        ("real=1e-3", 1e-3),
        ("flag=true", True),
        ("flag=False", False),
        ("text=a=b, (c)", "a=b, (c)"),
        ("text=none", "none"),
        ("texts=stop here", ("stop here",)),
        ("texts=('one', 'two')", ("one", "two")),
        ("texts=('whole')", ("whole",)),
        ("texts=['one']", ("one",)),
        ("texts=()", ()),
        ("numbers=2", (2,)),
        ("numbers=(2, 3)", (2, 3)),
        ("numbers=()", ()),
        ("numbers=none", None),
        ("choice=blue", "blue"),
        ("number_or_auto=4", 4),
        ("number_or_auto=auto", "auto"),
        ("rule=rejection", Verification.REJECTION),
        ("maybe=none", None),
        ("maybe=None", None),
        ("maybe=8", 8),
        ("inner.depth=2", 2),
        ("inner.path=none", None),
        ("inner.path=/some/where", "/some/where"),
    ],
)
def test_every_type_can_be_set(override, value):
    name = override.partition("=")[0]
    changed = override_field(Sample(), override)
    assert get(changed, name) == value
    assert type(get(changed, name)) is type(value)


def test_an_override_changes_one_field_and_copies():
    config = Config()
    changed = override_field(config, "drafter.model.max_length=99")
    assert changed.drafter.model == ModelSource("embedded:drafter", max_length=99)
    assert dataclasses.replace(changed, drafter=config.drafter) == config == Config()


def test_every_field_of_the_config_has_a_readable_type():
    """An impossible value of any field is refused in words, so no field has a type that the parser does not know."""

    def leaves(value: object, path: str = ""):
        for field in dataclasses.fields(value):
            below, name = getattr(value, field.name), f"{path}{field.name}"
            yield from leaves(below, f"{name}.") if dataclasses.is_dataclass(below) else [name]

    for name in leaves(Config()):
        try:
            override_field(Config(), f"{name}=(")
        except ValueError as error:
            assert "typing" not in str(error) and "<class" not in str(error) and "..." not in str(error), error


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("whole", "--set='whole' is not of the form field=value"),
        ("hole=1", "unknown config field 'hole'; Sample has whole, real, flag, text, texts, numbers, choice"),
        ("inner.width=1", "unknown config field 'inner.width'; Inner has depth, path"),
        ("whole.bits=1", "unknown config field 'whole.bits'; whole has no fields of its own"),
        ("=1", "unknown config field ''; Sample has whole"),
        ("inner=1", "config field 'inner' holds several values; set one of inner.depth, inner.path"),
        ("whole=", "whole='' is not possible; it must be an integer"),
        ("whole=2.5", "whole='2.5' is not possible; it must be an integer"),
        ("real=fast", "real='fast' is not possible; it must be a number"),
        ("flag=yes", "flag='yes' is not possible; it must be true or false"),
        ("choice=green", "choice='green' is not possible; it must be red or blue"),
        ("number_or_auto=manual", "number_or_auto='manual' is not possible; it must be an integer or auto"),
        ("rule=strict", "rule='strict' is not possible; it must be coupled or rejection"),
        ("maybe=some", "maybe='some' is not possible; it must be an integer or none"),
        ("texts=('a'", """it must be a text, or several as ('a', 'b')"""),
        ("numbers=((1,),)", "numbers='((1,),)' is not possible; it must be an integer, or several as (1, 2) or none"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(override, message):
    with pytest.raises(ValueError) as caught:
        override_field(Sample(), override)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mesh.sp_degree=0", "sp_degree=0 must be at least 1"),
        ("mesh.drafter_tp=-1", "drafter_tp=-1 must be at least 0"),
        ("lookahead=0", "lookahead=0 must be at least 1, or auto"),
        ("max_new_tokens=0", "max_new_tokens=0 must be at least 1"),
        ("sampling.temperature=nan", "temperature=nan must be a number of at least 0"),
        ("sampling.top_p=0", "top_p=0.0 must lie in [1e-30, 1]"),
        ("sampling.top_k=-1", "top_k=-1 must lie in 0..2**31-1"),
        ("sampling.seed=-1", "seed=-1 must lie in 0..2**32-1"),
        ("drafter.acceptance=1.5", "acceptance=1.5 must lie in [0, 1]"),
    ],
)
def test_values_are_checked_by_their_owners(override, message):
    with pytest.raises(ValueError) as caught:
        override_field(Config(sampling=Sampling()), override)
    assert message in str(caught.value)


def test_a_missing_card_points_to_the_cards():
    with pytest.raises(FileNotFoundError, match=r"no config at nowhere.py; the cards of this project are in configs/"):
        load("nowhere.py")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("card.txt", "", "card.txt is not a Python file; a config card ends in .py"),
        ("card.py", "x = 1", "card.py is no experiment card: it defines no get_config()"),
        ("card.py", "def get_config(", "card.py: SyntaxError: "),
        ("card.py", "import nothing_of_this_name", "card.py: ModuleNotFoundError: No module named"),
        ("card.py", "def get_config():\n    return unknown", "card.py: NameError: name 'unknown' is not defined"),
    ],
)
def test_a_card_that_is_none_is_refused(name, source, message, tmp_path):
    (tmp_path / name).write_text(source, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        load(tmp_path / name)
    assert message in str(caught.value)


def test_a_card_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"train_target.py is a card of Experiment, where one of Config is needed"):
        load(CONFIGS / "train_target.py", kind=Config)


# ---------------------------------------------------------------------------------------------------------- variants


def test_a_card_with_variants_is_loaded_by_name(tmp_path):
    card = tmp_path / "card.py"
    card.write_text(
        "from dsi_jax import Config, MeshConfig\n"
        'VARIANTS = {"small": MeshConfig(1), "v5e-8": MeshConfig(3, 2)}\n'
        'def get_config(name="small"):\n    return Config(mesh=VARIANTS[name])\n',
        encoding="utf-8",
    )
    assert variants(card) == ("small", "v5e-8")
    assert load(card).mesh == load(f"{card}:small").mesh == MeshConfig(1)
    assert load(f"{card}:v5e-8", ["mesh.drafter_tp=2"]).mesh == MeshConfig(3, 2, 2)
    with pytest.raises(ValueError, match=r"card.py has no variant 'large'; it has small, v5e-8"):
        load(f"{card}:large")


def test_a_card_without_variants_takes_none():
    assert variants(CONFIGS / "demo.py") == ()
    with pytest.raises(ValueError, match=r"demo.py has no variant 'v5e-8'; it has none"):
        load(f"{CONFIGS / 'demo.py'}:v5e-8")
    with pytest.raises(FileNotFoundError, match=r"no config at nowhere.py; the cards"):
        load("nowhere.py:v5e-8")
