"""The real service on numbers: it learns, keeps its budget, knows its errors, and comes back the same."""

from __future__ import annotations

import json
import pickle

import pytest
from river import datasets

from stream_al.codec import decode_ledger, decode_request
from stream_al.config import ConfigError, load
from stream_al.core.classification import NOTHING
from stream_al.core.fold import Fold
from stream_al.core.labels import is_number
from stream_al.core.messages import Genesis, LabelRequest
from stream_al.metrics import Exposition
from stream_al.service.figures import Figures
from stream_al.service.learning import compare, found
from stream_al.simulate import Simulation
from stream_al.transport.port import Output, TopicPartition

SETS = (
    "model.task=regression", "broker.partitions=2", "state_dir=null", "log.level=error", "http.port=null",
    "ledger.bucket_s=0.5", "scorer.commit_samples=64", "scorer.predictions=true", "budget.fraction=0.1",
    "accuracy.windows=[500]", "labels.wait_unknown_s=1",
)  # fmt: skip


def settings(*more):
    return load(None, [*SETS, *more], environ={})


def approval(times=2):
    """President Trump's approval by five features, a few times over."""
    return [(dict(x), y) for _ in range(times) for x, y in datasets.TrumpApproval()]


def read(broker, topic):
    """Return all records of a topic."""
    tps = {TopicPartition(topic, p): 0 for p in range(broker.partitions(topic))}
    with broker.reader(tps) as reader:
        return [record for batch in reader.poll(100_000, 0.0).values() for record in batch]


@pytest.fixture(scope="module", params=["random", "stratified"])
def finished(request):
    """A finished run with answers 100 samples late, some of which are no numbers, and where it stood at the end."""
    strategy = () if request.param == "random" else ("strategy=stratified",)
    with Simulation(settings(*strategy), approval(), delay=100) as simulation:
        for i, progress in enumerate(simulation.run()):
            assert progress.requests <= progress.allowed + 1e-9
            if i == 10:
                bad = [
                    {"id": "s-1", "label": "41.5"},
                    {"id": "s-1", "label": True},
                    {"id": "s-1", "label": None},
                ]
                values = [json.dumps(b).encode() for b in bad] + [b'{"id": "s-1", "label": NaN}']
                simulation.broker.append([Output("labels", value) for value in values])
        yield simulation, progress


def test_it_learns_and_knows_how_far_off_it_is(finished):
    _, last = finished
    labels = [y for _, y in approval()]
    middle = sorted(labels)[len(labels) // 2]
    constant = sum(abs(y - middle) for y in labels) / len(labels)
    assert last.true_mae < 0.7 * constant
    assert not last.warming
    known = last.errors
    assert 0 < known.mae.low < known.mae.value < known.mae.high
    assert known.mae.low <= last.true_mae <= known.mae.high
    assert known.rmse.low <= last.true_rmse <= known.rmse.high
    assert known.samples > 1_700, "all samples but the first ones had a prediction"
    assert last.estimate.dr is None


def test_a_decision_records_the_prediction(finished):
    simulation, _ = finished
    requests = [decode_request(record) for record in read(simulation.broker, "labels-requested")]
    shown = [r.model.value for r in requests if isinstance(r, LabelRequest)]
    assert shown[0] is None
    assert all(is_number(value) for value in shown[len(shown) // 2 :])
    predictions = [json.loads(record.value) for record in read(simulation.broker, "predictions")]
    assert len(predictions) == simulation.samples
    assert {p["expected_correct"] for p in predictions} == {0.5}
    assert min(p["inclusion_probability"] for p in predictions[500:]) > 0


def test_what_is_no_number_is_a_dead_letter(finished):
    simulation, _ = finished
    letters = [dict(record.headers) for record in read(simulation.broker, "dead-letters")]
    messages = [letter["stream_al.error.message"].decode() for letter in letters]
    assert sum("is not a number, and the task is regression" in message for message in messages) == 2
    assert len(messages) == 4


def test_a_replay_and_a_snapshot_are_the_same_fold(finished):
    simulation, _ = finished
    records = read(simulation.broker, "ledger")
    folds = []
    for cut in (0, len(records) // 2):
        fold = Fold()
        for record in records:
            if record.offset == cut:
                fold = pickle.loads(pickle.dumps(fold))
            fold.apply(record.offset, decode_ledger(record))
        folds.append(fold)
    batch = [x for x, _ in approval(1)[:50]]
    for fold in folds:
        assert fold.prediction_errors([500]) == simulation.fold.prediction_errors([500])
        assert fold.score(batch).values.tolist() == simulation.fold.score(batch).values.tolist()
        assert fold.score(batch).utility.tolist() == simulation.fold.score(batch).utility.tolist()
        assert not fold.errors


def test_figures_show_errors_and_no_accuracy(finished):
    simulation, _ = finished
    figures = Figures.of(simulation.service)
    assert (figures.learner.estimates, figures.learner.by_class, figures.learner.always) == (
        {},
        NOTHING,
        None,
    )
    text = Exposition(lambda: figures).render()[0].decode()
    mae = simulation.fold.prediction_errors([500])["500"].mae
    assert f'stream_al_error{{metric="mae",window="500"}} {mae.value!r}\n' in text
    assert f'stream_al_error_high{{metric="mae",window="500"}} {mae.high!r}\n' in text
    assert "stream_al_accuracy" not in text


def test_a_ledger_is_not_read_by_a_configuration_of_another_task(finished):
    simulation, _ = finished
    genesis = next(decode_ledger(record) for record in read(simulation.broker, "ledger"))
    assert isinstance(genesis, Genesis)
    assert genesis.task == "regression"
    compare(genesis, simulation.settings)
    compare(genesis, load(None, environ={}))  # nobody wrote a task
    with pytest.raises(ConfigError, match=r"model\.task: the ledger was founded with 'regression'"):
        compare(genesis, load(None, ["model.task=classification"], environ={}))


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("model.task=classification", "model.spec=[river.linear_model.LinearRegression]"), "write model.task: regression"),
        (("model.spec=[river.linear_model.LogisticRegression]",), "write model.task: classification"),
    ],
)  # fmt: skip
def test_a_model_for_the_other_task_is_refused_at_the_start(finished, sets, said):
    simulation, _ = finished
    with pytest.raises(ConfigError, match=said):
        found(simulation.broker, settings(*sets), 0)
