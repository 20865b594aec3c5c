"""The lock files install the same everywhere, and nothing names the machine or the registry they came from."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
SITE = "requirements-site.lock"
ALL_LOCKS = (*LOCKS, SITE, "tests/studio/requirements.lock")

# Put together here so that this file does not match itself.
REGISTRIES = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("registry", "npmjs", "org"),
            ("repo", "maven", "apache", "org"),
            ("repo1", "maven", "org"),
            ("index", "crates", "io"),
            ("proxy", "golang", "org"),
            ("anaconda", "org"),
        )
    )
)


def pins(lock: str) -> dict[str, list[Requirement]]:
    """Return the pinned requirements of a lock file by name, and assert that it holds nothing else."""
    found: dict[str, list[Requirement]] = {}
    text = re.sub(r" *#.*", "", (ROOT / lock).read_text(encoding="utf-8")).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = re.split(r"\s+--hash=", line)
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), line
        pin = Requirement(requirement)
        assert str(pin.specifier).startswith("=="), line
        found.setdefault(pin.name.lower(), []).append(pin)
    return found


def wanted(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(text) for requirements in lists for text in requirements]


@pytest.mark.parametrize("lock", ALL_LOCKS)
def test_a_lock_holds_pins_and_hashes_only(lock):
    assert len(pins(lock)) > 20


@pytest.mark.parametrize("lock", ALL_LOCKS)
@pytest.mark.parametrize(
    "mark", ["://", "--find-links", "--index", "--extra-index", "--trusted-host", " /", "file:"]
)
def test_a_lock_names_no_address_and_no_path(lock, mark):
    assert mark not in (ROOT / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lock", "extras"), [(LOCKS[0], ("plots",)), (LOCKS[1], ("plots", "test", "quality"))], ids=LOCKS
)
def test_a_lock_fulfils_the_project(lock, extras):
    locked = pins(lock)
    for requirement in wanted(*extras):
        for pin in locked[requirement.name.lower()]:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{requirement} but {pin}: run `make lock`"


def test_the_lock_of_the_site_fulfils_its_group():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for requirement in map(Requirement, project["dependency-groups"]["site"]):
        for pin in pins(SITE)[requirement.name]:
            assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), "run `make lock`"


def test_both_locks_hold_the_same_versions():
    runtime, everything = map(pins, LOCKS)
    assert {name: set(map(str, found)) for name, found in runtime.items()} == {
        name: set(map(str, everything[name])) for name in runtime
    }


@pytest.mark.skipif(
    not shutil.which("git") or not (ROOT / ".git").exists(),
    reason="not a git working copy, so nothing is tracked",
)
def test_no_tracked_file_names_a_package_registry():
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    names = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    named = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in names
        if path.is_file()
        for match in [REGISTRIES.search(path.read_bytes().decode("utf-8", "replace"))]
        if match
    ]
    assert not named
