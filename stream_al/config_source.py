"""Where settings are written: a YAML file, the environment, ``--set``. Each value remembers its origin.

Theory of operation
-------------------
Each source becomes a ``Tree``: plain values, and for every path in them the ``Origin`` that wrote it. Trees
are laid over each other, mappings key by key, anything else as a whole; the later origin wins with the later
value. What the keys mean is not known here.

YAML is read by the rules of YAML 1.2's core schema, so that ``[yes, no]`` are two texts and not two booleans.
Mappings may not repeat a key. A value from the environment or ``--set`` is read as YAML too, with two
exceptions: the value of a key that holds a secret is taken as it stands, and ``a: b`` without braces is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

ENVIRONMENT_PREFIX = "STREAM_AL_"

Path = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used; one line per problem says where, what, and what to write instead."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Origin(NamedTuple):
    """Where a value was written: a file and line, a variable, an option."""

    place: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place


DEFAULTS = Origin("defaults")


@dataclass(frozen=True, slots=True)
class Tree:
    value: dict[Any, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)

    def over(self, base: Tree) -> Tree:
        return Tree(_merged(base.value, self.value), base.origins | self.origins)


def origin_of(origins: Mapping[Path, Origin], path: Path) -> Origin:
    """Return who wrote ``path``, or else the nearest thing around it."""
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return DEFAULTS


def dotted(path: Path) -> str:
    """Return a path as people write it: ``model.classes[2]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def from_file(path: FilePath) -> Tree:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; check the name") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return _Reader(str(path), lambda mark: Origin(str(path), mark.line + 1)).tree(text, ())


def from_environment(environ: Mapping[str, str], keys: Iterable[str]) -> Tree:
    """Read ``STREAM_AL_A__B=value`` as ``a.b``.

    A name with one part counts only if it is a key or nearly one: platforms set others (a Kubernetes service
    called ``stream-al`` brings ``STREAM_AL_SERVICE_HOST``).
    """
    known = tuple(keys)
    tree = Tree()
    for name in sorted(environ, key=lambda name: (name.count("__"), name)):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        section = next((key for key in known if len(path) == 1 and path[0].startswith(f"{key}_")), None)
        if section is not None and path[0] not in known:
            meant = f"{ENVIRONMENT_PREFIX}{section}__{path[0][len(section) + 1 :]}".upper()
            raise ConfigError(
                f"environment {name}: two underscores part the keys; write {meant}, or unset it"
            )
        if len(path) > 1 or get_close_matches(path[0], known, n=1, cutoff=0.8):
            tree = _assigned(path, environ[name], f"environment {name}").over(tree)
    return tree


def from_assignment(text: str) -> Tree:
    """Read the ``a.b=value`` of a ``--set``."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(
            f"--set {key}: not of the form key.key=value; write for example --set budget.fraction=0.1"
        )
    return _assigned(path, value, "--set")


def is_secret(key: object) -> bool:
    """Tell whether values under this key must not be shown (``sasl_plain_password``, ``token``; no ``token_file``)."""
    name = key.replace("-", "_").lower() if isinstance(key, str) else ""
    return _SECRET.search(name) is not None and not name.endswith("_file")


def secret_keys(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted keys below which secrets stand."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        here = f"{path}.{key}" if path else str(key)
        if is_secret(key):
            yield here
        else:
            yield from secret_keys(inner, here)


_SECRET = re.compile(r"password|passwd|passphrase|secret|token|credential|api_?key|private_?key")


def _assigned(path: tuple[str, ...], text: str, place: str) -> Tree:
    origin = Origin(place)
    value: Any = text
    origins: dict[Path, Origin] = {}
    if not is_secret(path[-1]):
        reader = _Reader(place, lambda _: origin)
        value = reader.value(text, path)
        origins = reader.origins
    for length in range(len(path), 0, -1):
        origins[path[:length]] = origin
        value = {path[length - 1]: value}
    return Tree(value, origins)


def _merged(base: Mapping[Any, Any], over: Mapping[Any, Any]) -> dict[Any, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)  # noqa: PLW2901 - the same value, completed
        result[key] = value
    return result


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema; 1.1 reads ``no`` as false, ``1:30`` as 90 and ``1e-3`` as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class's attribute


_NULL, _BOOL, _INT, _FLOAT, _STR = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")
)
for _tag, _pattern, _first in (
    (_NULL, r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        _FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


_SCALARS: dict[str, Callable[[str], object]] = {
    _NULL: lambda _: None,
    _BOOL: lambda text: text.lower() == "true",
    _INT: _integer,
    _FLOAT: lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
    _STR: str,
}


class _Reader:
    """Turns YAML text into values and notes the origin of every path."""

    def __init__(self, place: str, origin: Callable[[yaml.Mark], Origin]) -> None:
        self.place = place
        self.origin = origin
        self.origins: dict[Path, Origin] = {}
        self.problems: list[str] = []

    def tree(self, text: str, path: Path) -> Tree:
        node = self._composed(text, path)
        if node is None:
            return Tree()
        value = self._checked(node, path)
        if isinstance(value, dict):
            return Tree(value, self.origins)
        raise ConfigError(
            f"{self._at(node.start_mark)}: not a mapping; write lines such as `strategy: margin`"
        )

    def value(self, text: str, path: Path) -> object:
        """Read one value; ``a: b`` without braces is text (``embedded://:memory:`` would be a mapping)."""
        node = self._composed(text, path)
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            return text
        return None if node is None else self._checked(node, path)

    def _composed(self, text: str, path: Path) -> yaml.Node | None:
        try:
            return yaml.compose(text, Loader=_CoreLoader)
        except RecursionError as error:
            raise ConfigError(f"{self.place}{_key(path)}: nested too deeply") from error
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n")
            mark = yaml.Mark(self.place, error.position, line, 0, None, 0)
            raise ConfigError(
                f"{self._at(mark)}{_key(path)}: a character that YAML does not allow"
            ) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark or yaml.Mark(self.place, 0, 0, 0, None, 0)
            raise ConfigError(
                f"{self._at(mark)}{_key(path)}: not YAML: {_hint(str(error.problem))}"
            ) from error

    def _checked(self, node: yaml.Node, path: Path) -> object:
        try:
            value = self._read(node, path)
        except RecursionError as error:
            raise ConfigError(
                f"{self._at(node.start_mark)}{_key(path)}: an alias that contains itself"
            ) from error
        if self.problems:
            raise ConfigError(*self.problems)
        return value

    def _read(self, node: yaml.Node, path: Path) -> object:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, number)) for number, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _item(self, node: yaml.Node, path: Path) -> object:
        self.origins[path] = self.origin(node.start_mark)
        return self._read(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            inner = (*path, name)
            key = self._scalar(key_node, inner)
            if key in result:
                first = self.origins[inner]
                self._problem(key_node, inner, f"written twice, first at {first}; keep one of them")
            else:
                self.origins[inner] = self.origin(key_node.start_mark)
            result[key] = self._read(value_node, inner)
        return result

    def _scalar(self, node: yaml.Node, path: Path) -> object:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(node, path, "a list or mapping cannot be a key; write a name")
        elif node.tag not in _SCALARS:
            self._problem(node, path, f"the tag {node.tag} is not known; leave it out")
        else:
            try:
                return _SCALARS[node.tag](node.value)
            except ValueError:
                self._problem(node, path, f"not a readable {node.tag.rpartition(':')[2]}; put it in quotes")
        return None

    def _problem(self, node: yaml.Node, path: Path, text: str) -> None:
        self.problems.append(f"{self._at(node.start_mark)}{_key(path)}: {text}")

    def _at(self, mark: yaml.Mark) -> Origin:
        return self.origin(mark)


def _key(path: Path) -> str:
    return f" {dotted(path)}" if path else ""


def _hint(problem: str) -> str:
    """Add what to write to the parser's most frequent complaints."""
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return (
            f"{problem}; put a value that contains ': ' or ends in ':' in quotes, and check the indentation"
        )
    if "cannot start any token" in problem or "undefined alias" in problem:
        return f"{problem}; put the value in quotes"
    if "single document" in problem or "but found another document" in problem:
        return f"{problem}; keep one, without `---` in between"
    return f"{problem}; check quotes, brackets and indentation"
