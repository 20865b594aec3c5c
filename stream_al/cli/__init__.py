"""The command line. Only what every verb needs is imported before the verb itself runs."""

from __future__ import annotations

import os
import sys

# Verbs that fold a ledger into a model which other processes must get too.
FOLDING = ("run", "demo", "simulate")
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Run ``stream-al``; the entry point of the console script."""
    _settle()
    from stream_al.cli.app import app

    app(prog_name="stream-al")


def _settle() -> None:
    """Make replicas alike: one BLAS thread, and one order of sets, which is fixed when Python starts."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    folding = bool(set(sys.argv[1:2]) & set(FOLDING))
    if folding and os.name == "posix" and "PYTHONHASHSEED" not in os.environ:
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  this very command again
