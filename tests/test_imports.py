"""Who may import whom."""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stream_al"

# A module imports its own layer and those above it in this table. Outside the core, a package is one layer.
LAYERS = (
    ("core.messages", "core.labels", "core.coin", "core.batch", "core"),
    (
        "core.assessment",
        "core.utility",
        "core.strategies*",
        "core.budget",
        "core.model*",
        "core.vectorised",
        "core.accuracy",
        "core.classification",
        "core.regression",
        "core.estimate",
        "core.sequence",
        "core.drift",
        "core.cooperative",
        "core.challenger",
        "core.paired",
        "core.random_twin",
        "core.calibration",
        "core.votes",
        "core.alike",
        "models",
    ),
    ("core.fold",),
    ("core.grants", "core.scorer", "core.learner", "core.desk*"),
    ("config", "config_*", "codec*", "transport"),
    (
        "service",
        "metrics",
        "simulate",
        "web",
        "bridges",
        "demo",
        "annotator",
        "asyncapi",
        "datasets",
        "logs",
        "scan",
        "status*",
        "whatif",
        "wording",
        "testing",
    ),
    ("cli", "__main__"),
)

CORE_LIBRARIES = {"numpy", "river"}
# A clock, files, sockets, threads, the environment, or global random.
IMPURE = {"time", "os", "socket", "threading", "pathlib", "subprocess", "random"}

# Libraries that one place alone knows.
CONFINED = {
    "kafka": "transport.kafka*",
    "confluent_kafka": "transport.confluent",
    "prometheus_client": "metrics",
}


def modules() -> dict[str, Path]:
    """Return every module by its name below the package; the package itself is the empty name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def layer(module: str) -> int:
    room = module if module.startswith("core.") else module.split(".", maxsplit=1)[0]
    for number, patterns in enumerate(LAYERS):
        if any(fnmatch(room, pattern) for pattern in patterns):
            return number
    pytest.fail(
        f"stream_al.{module} is in no layer: decide what it may import and add it to LAYERS", pytrace=False
    )


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Yield the full name of everything a module imports, at any depth, with its line."""
    path = MODULES[module]
    package = ["stream_al", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def own(name: str) -> str | None:
    """Return the module of this package that an imported name is, or is in; None for other packages."""
    first, *parts = name.split(".")
    if first != "stream_al":
        return None
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


def library(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_a_module_imports_only_its_own_layer_and_those_before(module):
    wrong = [
        f"{module}:{line} imports {name}"
        for name, line in imports(module)
        if (target := own(name)) and layer(target) > layer(module)
    ]
    assert not wrong


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "core"])
def test_the_core_is_pure(module):
    allowed = (set(sys.stdlib_module_names) - IMPURE) | CORE_LIBRARIES | {"stream_al"}
    wrong = [
        f"{module}:{line} imports {name}" for name, line in imports(module) if library(name) not in allowed
    ]
    outside = [
        f"{module}:{line} imports {name}"
        for name, line in imports(module)
        if (target := own(name)) is not None and target.split(".")[0] != "core"
    ]
    assert not wrong + outside


@pytest.mark.parametrize("module", MODULES)
def test_a_confined_library_stays_where_it_belongs(module):
    wrong = [
        f"{module or '__init__'}:{line} imports {name}"
        for name, line in imports(module)
        if not fnmatch(module, CONFINED.get(library(name), module))
    ]
    assert not wrong


def test_the_checks_see_imports_at_all():
    assert ("stream_al.config_source", "config_source") in {
        (name, own(name)) for name, _ in imports("config") if name.startswith("stream_al.config_source")
    }
    assert own("stream_al.config.Settings") == "config"
    assert own("numpy.random") is None
    assert (
        layer("core.model_features")
        < layer("core.fold")
        < layer("core.scorer")
        < layer("config")
        < layer("cli.main")
    )
