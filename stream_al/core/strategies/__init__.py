"""Query strategies: what makes a sample worth asking for.

A strategy is one class in one file, and its name in the list of the tasks it is for: ``least_confidence`` is the class
``LeastConfidence`` in ``least_confidence.py``. Every contract check then runs on it. The classes are in
``stream_al.core.strategies.table``; this module imports nothing, so that telling the names costs nothing.
"""

CLASSIFICATION = (
    "margin",
    "moderated_margin",
    "flip",
    "least_confidence",
    "entropy",
    "density_margin",
    "gradient_length",
    "vote_entropy",
    "consensus_kl",
    "variance_reduction",
    "error_reduction",
    "diversity",
    "random",
)
REGRESSION = ("random", "stratified")
NAMES = tuple(dict.fromkeys((*CLASSIFICATION, *REGRESSION)))


class UnknownStrategyError(ValueError):
    """A strategy of this name is not known to this version."""
