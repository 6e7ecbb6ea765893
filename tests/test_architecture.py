"""The tree is the architecture: who may import whom, where arrays move, and what stays out of the library."""

import ast
import graphlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# What each part of dsi_jax may import of the others; a dotted name allows that module and those below it.
MAY_IMPORT = {
    "base": set(),
    "files": set(),
    "wire": {"base"},
    "faults": {"base"},
    "cluster": set(),
    "embedded": set(),
    "models": {"base"},
    "placement": {"base"},
    "planning": {"base"},
    "control": {"base", "planning"},
    "policies": {"base", "control", "planning"},
    "simulation": {"base", "control", "planning", "faults"},
    "profiles": {"base", "files"},
    "telemetry": {"base", "policies", "files", "prompts", "profiles"},
    "prompts": {"base"},
    "decoding": {"base", "models"},
    "programs": {"base", "models", "decoding", "placement"},
    "drafters": {"base", "models", "decoding", "placement", "programs"},
    "runtime": {
        "wire",
        "cluster",
        "base",
        "faults",
        "models",
        "decoding",
        "placement",
        "programs",
        "drafters",
        "simulation.latencies",
        "simulation.timetable",
    },
    "checkpoints": {"base", "models", "embedded", "files"},
    "training": {"base", "models", "checkpoints", "embedded"},
    "array_programs": {"base", "control", "planning", "policies", "simulation"},
    "config": {"base", "faults", "cluster", "checkpoints", "placement", "drafters"},
    "opening": {
        "base",
        "models",
        "decoding",
        "placement",
        "programs",
        "drafters",
        "runtime",
        "checkpoints",
        "config",
    },
}
MAY_IMPORT["engine"] = set(MAY_IMPORT) - {"training", "array_programs", "profiles"}
MAY_IMPORT["aot"] = {
    "base",
    "files",
    "profiles",
    "models",
    "decoding",
    "placement",
    "programs",
    "drafters",
    "runtime",
    "checkpoints",
    "config",
}
MAY_IMPORT["layouts"] = MAY_IMPORT["aot"] | MAY_IMPORT["array_programs"] | {"array_programs"}
MAY_IMPORT["measuring"] = MAY_IMPORT["aot"] | MAY_IMPORT["engine"] | {"engine"}
MAY_IMPORT["sweeps"] = MAY_IMPORT["layouts"] | MAY_IMPORT["measuring"] | {"layouts"}
MAY_IMPORT["certificates"] = MAY_IMPORT["engine"] | {"engine"}
MAY_IMPORT[""] = set()  # dsi_jax/__init__.py names its members and imports them when they are first used
MAY_IMPORT["paper"] = set(MAY_IMPORT) - {""}  # the reproduction may use everything

HOST_ONLY = {"base", "files", "wire", "faults", "cluster", "policies", "planning", "control", "simulation"}
HOST_ONLY |= {"telemetry", "prompts", "profiles"}
DEVICE_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax"}
LEAVES = {"launch", "configs", "tests", "colab"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve"}
MOVES = {"device_put", "device_get", "device_put_sharded", "device_put_replicated"}

Modules = Mapping[str, str]  # dotted name -> source


class Import(NamedTuple):
    """One name that a module imports."""

    name: str  # dotted, with what a `from` import takes; a relative one begins with a dot
    runs: bool  # false under `if TYPE_CHECKING`
    at_import: bool  # false inside a function


# ------------------------------------------------------------------------------------------------------- reading


def modules_below(*folders: str) -> dict[str, str]:
    """Source of every Python module in these folders of the repository."""
    found = {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def notebook_modules() -> dict[str, str]:
    """The code of each notebook as one module, without the lines that are IPython's own."""
    found = {}
    for path in sorted((ROOT / "colab").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found[f"colab.{path.stem}"] = re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
    return found


def imports_of(source: str) -> Iterator[Import]:
    """List what a module imports, wherever in it."""

    def walk(node: ast.AST, runs: bool, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, runs, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                origin = "." * child.level + (child.module or "")
                yield from (Import(f"{origin}.{alias.name}", runs, at_import) for alias in child.names)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, runs and not typing_only, at_import and not inside)

    return walk(ast.parse(source), True, True)


def ours(imported: str, modules: Modules) -> str | None:
    """The module of dsi_jax that an imported name lies in, None if it lies elsewhere."""
    while imported and imported not in modules:
        imported = imported.rpartition(".")[0]
    return imported if imported.split(".")[0] == "dsi_jax" else None


def part(module: str) -> str:
    """The package, or top-level module, of dsi_jax."""
    return module.split(".")[1] if "." in module else ""


# -------------------------------------------------------------------------------------------------------- the rules


def forbidden_imports(modules: Modules) -> list[str]:
    """Imports that the table does not allow, and relative ones, which hide where they lead."""
    found = []
    for module, source in modules.items():
        for imported in imports_of(source):
            if imported.name.startswith("."):
                found.append(f"{module} imports {imported.name}")
            other = ours(imported.name, modules)
            if other is None or part(other) == part(module) != "":
                continue
            inner = other.partition(".")[2] + "."
            if not any(inner.startswith(f"{allowed}.") for allowed in MAY_IMPORT[part(module)]):
                found.append(f"{module} imports {other}")
    return found


def cycle(modules: Modules) -> list[str]:
    """The modules along one cycle of imports; empty if there is none."""
    graph = {
        module: {other for imported in imports_of(source) if (other := ours(imported.name, modules))}
        for module, source in modules.items()
    }
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def device_imports(modules: Modules) -> list[str]:
    """Host-only modules that import a device library; matplotlib may be imported inside functions alone."""
    found = []
    for module, source in modules.items():
        if part(module) not in HOST_ONLY:
            continue
        for imported in imports_of(source):
            library = imported.name.split(".")[0]
            plotting = library == "matplotlib" and imported.runs and imported.at_import
            if library in DEVICE_LIBRARIES or plotting:
                found.append(f"{module} imports {library}")
    return found


def leaf_imports(modules: Modules) -> list[str]:
    """Modules of the library that import a launcher, a card, a test or a notebook."""
    return [
        f"{module} imports {imported.name}"
        for module, source in modules.items()
        for imported in imports_of(source)
        if imported.name.split(".")[0] in LEAVES
    ]


def pickles(modules: Modules) -> list[str]:
    """Modules that unpickle, which would run whatever a file says."""
    found = []
    for module, source in modules.items():
        found += [module for imported in imports_of(source) if imported.name.split(".")[0] in PICKLES]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found += [] if isinstance(node.value, ast.Constant) and node.value.value is False else [module]
    return found


def array_moves(modules: Modules) -> list[str]:
    """Modules of what runs, besides `transfer`, that move arrays between host and devices."""
    movers = {"placement", "programs", "drafters", "runtime", "opening", "engine"}
    return [
        module
        for module, source in modules.items()
        if part(module) in movers and module != "dsi_jax.placement.transfer" and MOVES & names_in(source)
    ]


def talkative(modules: Modules) -> list[str]:
    """Modules that print, or that read flags."""
    found = []
    for module, source in modules.items():
        flags = any(imported.name in ("absl.flags", "absl.app") for imported in imports_of(source))
        calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        if flags or any(isinstance(called, ast.Name) and called.id == "print" for called in calls):
            found.append(module)
    return found


def undocumented(modules: Modules) -> list[str]:
    return [module for module, source in modules.items() if not ast.get_docstring(ast.parse(source))]


def names_in(source: str) -> set[str]:
    """Every name and attribute that a module mentions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                found.add(name)
    return found


# ------------------------------------------------------------------------------------------------- the real modules


@pytest.fixture(scope="module")
def library():
    return modules_below("dsi_jax")


@pytest.fixture(scope="module")
def everything(library):
    return library | modules_below("launch", "configs", "tests")


def test_every_part_of_the_library_is_in_the_table(library):
    assert {part(module) for module in library} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "rule", [forbidden_imports, cycle, device_imports, leaf_imports, array_moves, talkative], ids=lambda f: f.__name__
)
def test_the_library_keeps(rule, library):
    assert rule(library) == []


def test_nothing_unpickles(everything):
    assert pickles(everything | notebook_modules()) == []


def test_only_launchers_and_cards_print_and_read_flags(everything):
    assert {name.split(".")[0] for name in talkative(everything)} <= {"launch", "configs"}


def test_every_module_has_a_docstring(everything):
    assert undocumented(everything) == []


# ------------------------------------------------------------------------------------- the rules catch what they say


def world(**sources: str) -> dict[str, str]:
    """A small dsi_jax: an empty module for every part, and some with a source (`control__loop` for control.loop)."""
    names = {name for name in MAY_IMPORT if name} | {"control.loop", "simulation.latencies", "simulation.virtual"}
    modules = {"dsi_jax": ""} | {f"dsi_jax.{name}": "" for name in names}
    return modules | {f"dsi_jax.{name.replace('__', '.')}": source for name, source in sources.items()}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("base", "import dsi_jax.models"),
        ("models", "from dsi_jax.control.loop import run"),
        ("control__loop", "from dsi_jax.policies import DSI"),
        ("planning", "from dsi_jax.control import loop"),
        ("control__loop", "from dsi_jax import runtime"),
        ("control__loop", "def late():\n    from dsi_jax.simulation.latencies import Latencies"),
        ("runtime__worker", "from dsi_jax.simulation import virtual"),
        ("runtime__worker", "from dsi_jax.simulation.virtual import VirtualBackend"),
        ("drafters", "from dsi_jax.runtime import servers"),
        ("engine", "from dsi_jax.training import data"),
        ("models", "from dsi_jax import Engine"),
        ("models", "import dsi_jax"),
    ],
)
def test_a_forbidden_import_is_found(module, source):
    assert forbidden_imports(world()) == []
    (found,) = forbidden_imports(world(**{module: source}))
    assert found.startswith(f"dsi_jax.{module.replace('__', '.')} imports dsi_jax")


def test_a_relative_import_is_refused():
    assert forbidden_imports(world(control__loop="from .record import Task")) == [
        "dsi_jax.control.loop imports .record.Task"
    ]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("control__loop", "from dsi_jax.control import work"),
        ("runtime__worker", "from dsi_jax.simulation.latencies import Latencies"),
        ("runtime__worker", "from dsi_jax.simulation import latencies"),
        ("engine", "from dsi_jax.placement import transfer\nfrom dsi_jax.config import Config"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert forbidden_imports(world(**{module: source})) == []


def test_a_cycle_is_found_even_inside_one_package_and_inside_functions():
    loop = "from dsi_jax.control import work"
    assert cycle(world(control__loop=loop, control__work="")) == []
    late = "def late():\n    from dsi_jax.control.loop import run"
    assert {"dsi_jax.control.loop", "dsi_jax.control.work"} <= set(cycle(world(control__loop=loop, control__work=late)))


def test_device_libraries_are_found_in_host_only_modules():
    assert device_imports(world(models="import jax\nfrom flax import linen")) == []
    assert device_imports(world(control__loop="import jax.numpy as jnp")) == ["dsi_jax.control.loop imports jax"]
    assert device_imports(world(planning="def f():\n    from flax import linen")) == ["dsi_jax.planning imports flax"]


def test_matplotlib_is_refused_at_import_time_only():
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from matplotlib.axes import Axes"
    late = "def draw():\n    import matplotlib"
    assert device_imports(world(telemetry__plots=typed + "\n" + late)) == []
    assert device_imports(world(telemetry__plots="import matplotlib")) == ["dsi_jax.telemetry.plots imports matplotlib"]


def test_the_other_rules_find_what_they_forbid():
    assert leaf_imports(world(engine="from configs import demo")) == ["dsi_jax.engine imports configs.demo"]
    assert pickles(world(engine="import pickle")) == ["dsi_jax.engine"]
    assert pickles(world(engine="np.load('x.npy', allow_pickle=True)")) == ["dsi_jax.engine"]
    assert pickles(world(engine="np.load('x.npy', allow_pickle=False)")) == []
    moving = "import jax\nx = jax.device_get(1)"
    assert array_moves(world(placement__transfer=moving, models=moving)) == []
    assert array_moves(world(engine=moving)) == ["dsi_jax.engine"]
    assert array_moves(world(runtime__worker=moving)) == ["dsi_jax.runtime.worker"]
    assert array_moves(world(runtime__worker="from jax import device_put")) == ["dsi_jax.runtime.worker"]
    assert talkative(world(engine="print('hello')")) == ["dsi_jax.engine"]
    assert talkative(world(engine="from absl import flags")) == ["dsi_jax.engine"]
    assert undocumented({"dsi_jax.base": "'''Words.'''", "dsi_jax.config": "x = 1"}) == ["dsi_jax.config"]
