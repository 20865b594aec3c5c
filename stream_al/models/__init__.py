"""The classifiers that stream-al brings along, as River classifiers that can be named in a model spec."""

from stream_al.models.bayes import BayesianClassifier
from stream_al.models.mixture import MixtureClassifier

__all__ = ["BayesianClassifier", "MixtureClassifier"]
