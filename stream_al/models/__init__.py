"""The classifiers that stream-al brings along, and a transformer: all River's kind, to be named in a model spec."""

from stream_al.models.bayes import BayesianClassifier
from stream_al.models.masked import MaskedAutoencoder
from stream_al.models.mixture import MixtureClassifier

__all__ = ["BayesianClassifier", "MaskedAutoencoder", "MixtureClassifier"]
