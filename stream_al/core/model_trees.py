"""River's Hoeffding trees and adaptive random forest, to the last bit, in 60 % of the time and a fortieth of the room.

What they compute is River's; how they do it is not:

* Each Gaussian of River's leaves has a random generator of its own (2.5 kB), which a tree never draws from. They were
  nine tenths of a forest's pickle. Here it is five numbers.
* A splitter works out its Gaussians once, not for each of its ten split points.
* A walk down a tree is a loop.
* River sorts all leaves after each split, to see which of them fit into ``max_size``: of nearly all trees all do, and
  it takes the longer the larger the tree. It counts bytes for that, so a tree that ``max_size`` stops is larger here.

Imports River: import it late.
"""

# mypy: disallow-untyped-calls=False, warn-return-any=False
# ruff: noqa: FBT001, FBT002 - as River has them
from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from river import forest
from river.forest.adaptive_random_forest import BaseTreeClassifier
from river.tree.base import Branch
from river.tree.nodes.arf_htc_nodes import RandomLeafNaiveBayesAdaptive
from river.tree.nodes.branch import DTBranch, NumericBinaryBranch
from river.tree.nodes.htc_nodes import LeafNaiveBayesAdaptive
from river.tree.split_criterion import InfoGainSplitCriterion
from river.tree.splitter import GaussianSplitter as RiverGaussianSplitter
from river.tree.utils import BranchFactory, do_naive_bayes_prediction
from river.utils.math import norm_pdf

Row = Mapping[Any, Any]

HALF_LOG_TAU = 0.5 * math.log(math.tau)
ROOT_OF_TWO = math.sqrt(2.0)
# settings of a tree, which its forest has under the same names
OF_TREES = [name for name in inspect.signature(BaseTreeClassifier).parameters if name != "rng"]


class Normal:
    """Values of one feature in samples of one class: their weight, mean, sum of squares about it, and bounds."""

    __slots__ = ("high", "low", "mean", "n", "squares")

    def __init__(self, n: float, mean: float, squares: float, low: float, high: float) -> None:
        self.n, self.mean, self.squares, self.low, self.high = n, mean, squares, low, high

    def __reduce__(self) -> tuple[type[Normal], tuple[float, ...]]:
        return Normal, (self.n, self.mean, self.squares, self.low, self.high)

    @property
    def variance(self) -> float:
        return self.squares / (self.n - 1) if self.n > 1 else 0.0

    def update(self, x: float, w: float) -> None:
        if x < self.low:  # noqa: PLR1730 - five times as fast
            self.low = x
        if x > self.high:  # noqa: PLR1730
            self.high = x
        old = self.mean
        self.n += w
        self.mean = mean = old + (w / self.n) * (x - old)
        self.squares += w * (x - old) * (x - mean)

    def pdf(self, x: float) -> float:
        if not self.variance > 0.0:
            return 0.0
        deviation = math.sqrt(self.variance)
        try:
            return norm_pdf((x - self.mean) / deviation) / deviation
        except (ValueError, OverflowError):
            return 0.0

    def log_pdf(self, x: float) -> float:
        if self.n > 1:
            variance = self.squares / (self.n - 1)
            if variance > 0.0:
                part: float = (x - self.mean) ** 2 / (-2.0 * variance)
                return part - HALF_LOG_TAU - 0.5 * math.log(variance)
        return -math.inf


class GaussianSplitter(RiverGaussianSplitter):
    """River's numeric splitter with ``Normal`` for its Gaussians.

    Parameters
    ----------
    n_splits
        How many split points are weighed.
    """

    def __init__(self, n_splits: int = 10) -> None:
        self.n_splits = n_splits
        self.normals: dict[Any, Normal] = {}

    def clone(self, new_params: Any = None, include_attributes: bool = False) -> GaussianSplitter:
        if new_params or include_attributes:
            return super().clone(new_params, include_attributes)
        # River looks up the constructor's parameters, for each leaf and feature
        return GaussianSplitter(self.n_splits)

    def update(self, att_val: Any, target_val: Any, w: float) -> None:
        if att_val is None:
            return
        known = self.normals.get(target_val)
        if known is None:
            known = self.normals[target_val] = Normal(0.0, 0.0, 0.0, att_val, att_val)
        known.update(att_val, w)

    def cond_log_proba(self, att_val: Any, target_val: Any) -> float:
        known = self.normals.get(target_val)
        return -math.inf if known is None else known.log_pdf(att_val)

    def cond_proba(self, att_val: Any, target_val: Any) -> float:
        known = self.normals.get(target_val)
        return 0.0 if known is None else known.pdf(att_val)

    def best_evaluated_split_suggestion(
        self,
        criterion: Any,
        pre_split_dist: Any,
        att_idx: Any,
        binary_only: bool,  # noqa: ARG002
    ) -> BranchFactory:
        best, merit_of = BranchFactory(), _merit_of(criterion, pre_split_dist)
        for value, left, right in self._splits():
            merit = merit_of(left, right)
            if merit > best.merit:
                best = BranchFactory(merit, att_idx, value, [left, right])
        return best

    def _splits(self) -> Iterator[tuple[float, dict[Any, float], dict[Any, float]]]:
        """Yield split points, and the weights of the classes on both sides of each."""
        low = min(
            [math.inf, *(known.low for known in self.normals.values())]
        )  # in this order NaN is passed over
        high = max([-math.inf, *(known.high for known in self.normals.values())])
        if not low < math.inf:
            return
        each = [(c, k.n, k.mean, k.variance**0.5, k.low, k.high) for c, k in self.normals.items()]
        step = (high - low) / (self.n_splits + 1.0)
        for i in range(1, self.n_splits + 1):
            value = low + step * i
            if not low < value < high:
                continue
            left: dict[Any, float] = {}
            right: dict[Any, float] = {}
            for c, n, mean, deviation, first, last in each:
                if value < first:
                    right[c] = n
                elif value >= last:
                    left[c] = n
                else:
                    below = (
                        0.5 * (1.0 + math.erf((value - mean) / deviation / ROOT_OF_TWO)) if deviation else 0.0
                    )
                    left[c] = below * n
                    right[c] = n - left[c]
            yield value, left, right


def _merit_of(criterion: Any, before: Any) -> Any:
    """Return what tells a split's merit by the weights on both sides."""
    if type(criterion) is not InfoGainSplitCriterion:
        return lambda left, right: criterion.merit_of_split(before, [left, right])
    entropy, least = criterion.compute_entropy(before), criterion.min_branch_fraction

    def gain(left: dict[Any, float], right: dict[Any, float]) -> float:
        a, b = sum(left.values()), sum(right.values())
        total = a + b
        if not (total > 0 and a / total > least and b / total > least):
            return -math.inf
        return entropy - (a * _entropy(left) + b * _entropy(right)) / total

    return gain


def _entropy(weights: dict[Any, float]) -> float:
    entropy = total = 0.0
    for d in weights.values():
        if d > 0.0:
            entropy -= d * math.log2(d)
            total += d
    return (entropy + total * math.log2(total)) / total if total > 0.0 else 0.0


class Leaf(RandomLeafNaiveBayesAdaptive):
    """River's leaf of the forest, which predicts by naive Bayes or by the majority, whichever was right more often."""

    def learn_one(self, x: Row, y: Any, *, w: float = 1.0, tree: Any = None) -> None:
        if self.is_active():
            stats = self.stats
            scale = 1 / (sum(stats.values()) or 1)
            if not stats or max(stats, key=lambda c: stats[c] * scale) == y:
                self._mc_correct_weight += w
            votes = self._naive_bayes(x)
            if votes and max(votes, key=votes.__getitem__) == y:
                self._nb_correct_weight += w
        super(LeafNaiveBayesAdaptive, self).learn_one(x, y, w=w, tree=tree)

    def prediction(self, x: Row, *, tree: Any = None) -> dict[Any, float]:  # noqa: ARG002
        if self.is_active() and self._nb_correct_weight >= self._mc_correct_weight:
            return self._naive_bayes(x)
        return super(LeafNaiveBayesAdaptive, self).prediction(x)

    def _naive_bayes(self, x: Row) -> dict[Any, float]:
        """Return what River's ``do_naive_bayes_prediction`` does."""
        stats, splitters = self.stats, self.splitters or {}
        total = sum(stats.values())
        if total == 0:
            return {}
        seen = [(x[name], splitter) for name, splitter in splitters.items() if name in x]
        if any(type(splitter) is not GaussianSplitter for _, splitter in seen):
            return do_naive_bayes_prediction(x, stats, splitters)
        votes: dict[Any, float] = {}
        for c, weight in stats.items():
            if weight <= 0:
                votes[c] = 0.0
                continue
            vote = math.log(weight / total)
            for value, splitter in seen:
                known = splitter.normals.get(c)
                if known is not None:
                    log_p = known.log_pdf(value)
                    if log_p > -math.inf:
                        vote += log_p
            votes[c] = vote
        most = max(votes.values())
        lse = most + math.log(sum([math.exp(vote - most) for vote in votes.values()]))
        return {c: math.exp(vote - lse) for c, vote in votes.items()}


class Split(NumericBinaryBranch):
    """River's branch of two, through which a walk is a loop."""

    def walk(self, x: Row, until_leaf: bool = True) -> Iterator[Any]:
        node: Any = self
        yield node
        while type(node) is Split or isinstance(node, Branch):  # an abstract class takes long to ask
            try:
                node = node.next(x)
            except KeyError:
                if until_leaf:
                    _, node = node.most_common_path()
                    yield node
                    yield from node.walk(x, until_leaf)
                return
            yield node

    def next(self, x: Row) -> Any:
        return self.children[0 if x[self.feature] <= self.threshold else 1]

    def traverse(self, x: Row, until_leaf: bool = True) -> Any:
        node: Any = self
        try:
            while type(node) is Split:
                node = node.children[0 if x[node.feature] <= node.threshold else 1]
        except KeyError:
            return super(Split, node).traverse(x, until_leaf)
        return node.traverse(x, until_leaf) if isinstance(node, DTBranch) else node


class Tree(BaseTreeClassifier):
    """River's tree of the forest, made of the classes here."""

    def _branch_selector(
        self, numerical_feature: bool = True, multiway_split: bool = False
    ) -> type[DTBranch]:
        if numerical_feature and not multiway_split:
            return Split
        return super()._branch_selector(numerical_feature, multiway_split)

    def _new_leaf(self, initial_stats: Any = None, parent: Any = None) -> Any:
        if self._leaf_prediction != self._NAIVE_BAYES_ADAPTIVE:
            return super()._new_leaf(initial_stats, parent)
        depth = 0 if parent is None else parent.depth + 1
        stats = {} if initial_stats is None else initial_stats
        return Leaf(stats, depth, self.splitter, self.max_features, self.rng)

    def _enforce_size_limit(self) -> None:
        active = self._n_active_leaves * self._active_leaf_size_estimate
        all_fit = active * self._size_estimate_overhead_fraction <= self._max_byte_size
        if self._n_inactive_leaves or not all_fit:
            super()._enforce_size_limit()


class ARFClassifier(forest.ARFClassifier):
    """River's adaptive random forest, made of the classes here."""

    def _new_base_model(self) -> Tree:
        settings = {name: getattr(self, name) for name in OF_TREES}
        settings["splitter"] = self.splitter or GaussianSplitter()
        return Tree(**settings, rng=self._rng)
