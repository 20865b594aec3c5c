"""The best choice, as a sentence and as a configuration that is ready to run."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import yaml

from stream_al import __version__
from stream_al.config import Settings
from stream_al.config_source import secret_keys
from stream_al.web.demo_run import asking, percent
from stream_al.whatif.summary import CLOSE, Group, Summary


def sentences(summary: Summary) -> list[str]:
    """Say which choice is best, why, and what it is worth."""
    best, top = summary.best, summary.top
    said = [
        f"Best: {_choice(best)}: right on {accuracy(best)} of all samples with {best.labels:,.0f} labels."
    ]
    if top != best:
        said.append(
            f"The highest accuracy, {accuracy(top)}, needs {top.labels:,.0f} labels ({_choice(top)}):"
            f" less than {100 * CLOSE:g} point more is not worth them."
        )
    if best.random_labels is not None:
        said.append(_against_random(best))
    held, known = summary.covered
    if known:
        said.append(f"The service's own 95 % interval held the truth in {held} of {known} cells.")
    if summary.plan.seeds == 1:
        said.append("One seed proves little; try --seeds 5.")
    return said


def accuracy(group: Group) -> str:
    """Write the mean accuracy with its interval, where there is one."""
    if math.isnan(group.half):
        return percent(group.accuracy)
    return f"{percent(group.accuracy)} ± {100 * group.half:.1f}"


def needed(group: Group) -> str:
    """Write how many labels random needs for the same accuracy.

    A bound has its sign: ``> 1,200``.
    """
    if group.random_labels is None:
        return ""
    return f"{group.bound} {group.random_labels:,.0f}".strip()


def _choice(group: Group) -> str:
    return f"{asking(group.strategy)}, model {group.model}, budget {percent(group.budget)}"


def _against_random(group: Group) -> str:
    bound = {"": "", ">": "at least ", "<": "at most "}[group.bound]
    verdict = "" if (group.times or 0) >= 1 else ", which is cheaper: asking cleverly does not pay here"
    return (
        f"Asking at random needs {bound}{group.random_labels:,.0f} labels for the same accuracy"
        f" ({group.times:.1f} times as many){verdict}."
    )


def _setting(summary: Summary) -> str:
    plan, oracle = summary.plan, summary.plan.oracle
    samples = f"{plan.stream.name}, {summary.best.results[0].samples:,} samples, {plan.seeds} seed(s)"
    late = f"answers {oracle.delay:,} samples late ({oracle.distribution})"
    return f"{samples}, {late}, noise {oracle.noise:g}, silence {oracle.silence:g}, {oracle.annotators} annotator(s)"


def configuration(summary: Summary, base: Settings) -> str:
    """Return a config.yaml: what the base wrote, with the best choice, and the reason above it."""
    tree = written(base)
    best, plan = summary.best, summary.plan
    section = next(model.section for model in plan.models if model.name == best.model)
    tree.setdefault("model", {}).update(section or {"spec": base.model.spec})
    tree["strategy"] = best.strategy
    tree.setdefault("budget", {})["fraction"] = best.budget
    left_out = list(secret_keys(tree))
    for key in left_out:
        _remove(tree, key.split("."))
    reasons = [
        f"Chosen by stream-al simulate {__version__}: {_setting(summary)}.",
        *sentences(summary),
        *(f"Left out, a secret: {key}." for key in left_out),
    ]
    header = "\n".join(textwrap.fill(r, 98, initial_indent="# ", subsequent_indent="#   ") for r in reasons)
    return f"{header}\n\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)}"


def written(settings: Settings) -> dict[str, Any]:
    """Return the keys that somebody wrote, as a tree of plain values."""
    values = settings.model_dump(mode="json")
    tree: dict[str, Any] = {}
    for key in sorted(settings.written):
        *sections, last = key.split(".")
        source, target = values, tree
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[last] = source[last]
    return tree


def _remove(tree: dict[str, Any], path: list[str]) -> None:
    *sections, last = path
    for section in sections:
        tree = tree[section]
    tree.pop(last, None)
