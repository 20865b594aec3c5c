"""Starting: what is imported, what help says, and the generated reference."""

import subprocess
import sys
from pathlib import Path

import pytest

from stream_al import __version__
from stream_al.cli.reference import reference

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"river", "kafka", "fastapi", "matplotlib", "numpy", "pandas", "scipy", "uvicorn"}

IMPORTED = """
import sys
sys.argv = ["stream-al", *{arguments!r}]
from stream_al.cli import main
try:
    main()
except SystemExit as end:
    print("exit code", end.code, file=sys.stderr)
print(*sorted({heavy!r} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["config", "schema"], ["tap", "--help"], ["run", "--help"]]
)
def test_what_only_tells_imports_nothing_heavy(arguments):
    code = IMPORTED.format(arguments=arguments, heavy=HEAVY)
    # run would start Python anew for a fixed order of sets
    end = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "0", "PATH": ""},
    )
    assert end.stderr.split("\n")[:2] == ["exit code 0", ""]
    assert end.stdout


def test_the_version_is_the_package_s(cli):
    assert cli("--version").stdout == f"stream-al {__version__}\n"


def test_without_a_verb_help_is_shown_and_it_counts_as_misuse(cli):
    end = cli()
    assert end.exit_code == 2
    assert "dead-letters" in end.output


@pytest.mark.parametrize("verb", ["run", "check", "send", "tap", "status", "inspect", "dead-letters replay"])
def test_the_help_of_a_verb_shows_examples(cli, verb):
    end = cli(*verb.split(), "--help")
    assert end.exit_code == 0
    assert f"$ stream-al {verb}" in end.stdout


def test_the_committed_reference_is_the_generated_one():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference(), (
        "run python -m stream_al.cli.reference"
    )


def test_replicas_start_with_one_thread_and_one_order_of_sets():
    code = "import os; from stream_al.cli import _settle; _settle(); print(hash('a'), os.environ['OMP_NUM_THREADS'])"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, "run"], capture_output=True, text=True, check=True, env={"PATH": ""}
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].split()[1] == "1"
