"""Models by name, for comparisons: presets, the one of the configuration, and those of other configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_al.config import ConfigError, Settings, load
from stream_al.config_problems import not_one_of
from stream_al.core.model_spec import build
from stream_al.whatif.grid import Model

DEFAULT = "default"
PRESETS: Mapping[str, list[Any]] = {
    "mixture": ["stream_al.models.MixtureClassifier"],
    "bayes": ["stream_al.models.BayesianClassifier"],
    "logistic": [
        "river.preprocessing.StandardScaler",
        {"river.linear_model.LogisticRegression": {"optimizer": {"river.optim.SGD": {"lr": 0.1}}}},
    ],
    "naive_bayes": ["river.naive_bayes.GaussianNB"],
    "tree": ["river.tree.HoeffdingTreeClassifier"],
    "forest": ["river.forest.ARFClassifier"],
    "mondrian": ["river.forest.AMFClassifier"],
    "neighbours": ["river.preprocessing.StandardScaler", "river.neighbors.KNNClassifier"],
}
NAMES = (DEFAULT, *PRESETS)


class UnknownModelError(ValueError):
    """A name that is no model, and no file either."""


def model(name: str, settings: Settings) -> Model:
    """Return a model by the name of a preset, or by the path of a configuration.

    ``default`` is the model of the settings in force.

    Raises
    ------
    UnknownModelError
    ConfigError, ModelSpecError, OSError
        If a configuration cannot be used.
    """
    if name == DEFAULT:
        found = Model(name, {})
        build(settings.model.spec, seed=1)
    elif name in PRESETS:
        found = Model(name, {"spec": PRESETS[name]})
    elif name.endswith((".yaml", ".yml")) or "/" in name:
        found = _of_file(Path(name))
    else:
        raise UnknownModelError(f"{not_one_of(name, NAMES)}; or write the path of a config.yaml")
    return found


def _of_file(path: Path) -> Model:
    settings = load(path, environ={})
    if settings.model.task == "regression":
        raise ConfigError(f"{settings.where('model.task')} model.task: simulate compares classes, no numbers")
    build(settings.model.spec, seed=1)
    written = settings.model.model_dump(mode="json", include=settings.model.model_fields_set)
    return Model(str(path), {"spec": settings.model.spec} | written)
