"""One or more examples of everything that stream-al reads back: messages, states beside positions."""

from __future__ import annotations

import json

from stream_al.cli.dead import Progress
from stream_al.codec import answer_bytes, encode, encode_request
from stream_al.core.budget import Live, PartitionBudget
from stream_al.core.messages import (
    Answer,
    Bucket,
    Budget,
    Challenger,
    Challengers,
    Correction,
    Decision,
    Expired,
    Genesis,
    Grant,
    LabelRequest,
    Learned,
    Observe,
    Prediction,
    Probe,
    Promote,
    Query,
    Rebuild,
    Shown,
    Skipped,
    Source,
    Spent,
    Sums,
    Tally,
    Unsolicited,
    Vote,
    timestamp,
)

START = 1_800_000_000_000
SOURCE = Source("samples", 3, 91_823, "2026-11-21T01:00:00Z")
QUERY = Query("margin", "informative", 0.96, 0.91, 0.31, 0.01, 0.12, 0.61)
SHOWN = Shown("default", 1_742, {"fraud": 0.52, "ok": 0.4}, rest=0.08)
FEATURES = {"amount": 12.5, "n": 3, "new": True, "country": "FR", "gone": None, "vector": [0.5, 1, -2.25]}
SUMS = Sums(
    samples=80, uncovered=4, invalid=5, requests=7, sum_p=6.5, sum_m=51.25, sum_v=12.5, sum_v_over_p=170.0,
    sum_confidence=60.5, sum_entropy=30.25, predicted={"fraud": 20, "ok": 56, '"1"': 4},
)  # fmt: skip
ASKED = {
    "request_id": "3-91823", "id": "s-123", "source": SOURCE, "query": QUERY, "model": SHOWN,
    "requested_at": timestamp(START),
}  # fmt: skip
REQUEST = LabelRequest(
    id="s-123", request_id="3-91823", features=FEATURES, source=SOURCE, query=QUERY, model=SHOWN,
    requested_at=timestamp(START), expires_at=timestamp(START + 604_800_000),
)  # fmt: skip
ANSWERED = {"received_at": timestamp(START + 5_000), "answer": "labels-0@17"}

RECORDS = {
    "tally": [
        Tally(
            partition=3, from_offset=5, to_offset=90, first_at=timestamp(START), last_at=timestamp(START + 90),
            sums=SUMS, grants={7: Spent(2, closed=True), 9: Spent(0)}, state_lost=True,
        ),
        Tally(
            partition=0, from_offset=0, to_offset=5, first_at=timestamp(START), last_at=timestamp(START),
            sums=Sums(samples=5, sum_p=0.5, answered=4),
        ),
    ],
    "observe": [Observe(source=SOURCE, features=FEATURES)],
    "genesis": [
        Genesis(
            ledger_id="0123456789abcdef", topic="samples", start={0: 5, 11: 0}, model="default",
            spec=["river.preprocessing.StandardScaler", {"river.linear_model.LogisticRegression": {"l2": 0.001}}],
            classes=["a", 1, True], strategy="margin", seed=1, created_at=timestamp(START),
        ),
        Genesis(
            ledger_id="0123456789abcdef", topic="samples", start={}, model="default", spec=["river.tree.X"],
            classes=None, strategy="random", seed=2, created_at=timestamp(START), task="regression",
        ),
    ],
    "budget": [Budget(fraction=0.05, per_hour=None, per_day=700, max_outstanding=20, exploration=0.2, novelty=0.1)],
    "label": [
        Learned(**ASKED, **ANSWERED, features=FEATURES, label=label, learn=learn, annotator="ann", labeled_at="then")
        for label, learn in (("fraud", True), (1, False), (True, True), (2.5, True))
    ]
    + [
        Learned(**ASKED, **ANSWERED, features=FEATURES, label="fraud", learn=False, same_as="3-91822",
                decision=Decision("dawid_skene", 3, {"fraud": 0.97, "ok": 0.03}))
    ],
    "vote": [
        Vote(request_id="3-91823", id="s-123", label=label, **ANSWERED, annotator="ann", labeled_at="then")
        for label in ("fraud", 1, True, None)
    ],
    "skip": [Skipped(**ASKED, **ANSWERED), Skipped(**ASKED, **ANSWERED, same_as="3-91822")],
    "expire": [
        Expired(**ASKED, expired_at=timestamp(START + 604_800_000)),
        Expired(**ASKED, expired_at=timestamp(START), reason="withdrawn"),
    ],
    "bucket": [
        Bucket(
            number=12, ranges={3: (5, 90), 4: (0, 10)}, sums=SUMS, first_at=timestamp(START),
            last_at=timestamp(START + 90), grants={7: Spent(2, closed=True)},
        )
    ],
    "grant": [
        Grant(number=3, grant="cap", partition=1, tokens=5, issued_at=timestamp(START),
              until=timestamp(START + 30_000), pace=0.25),
        Grant(number=4, grant="advance", partition=1, tokens=30, issued_at=timestamp(START), until=timestamp(START)),
    ],
    "correction": [
        Correction(request_id="3-91823", id="s-123", corrects="labels-0-17", old="fraud", label="ok",
                   received_at=timestamp(START + 9_000), answer="labels-0-40", annotator="ann", labeled_at="then"),
        Correction(request_id=None, id="s-7", corrects="labels-0-18", old=1, label=2.5,
                   received_at=timestamp(START), answer="labels-0-41"),
    ],
    "unsolicited": [
        Unsolicited(id="s-8", features={"amount": 12.5, "country": "FR"}, label="fraud", received_at=timestamp(START),
                    answer="labels-0-42", annotator="ann", labeled_at="then")
    ],
    "rebuild": [
        Rebuild(id="0f0f", ledger_id="0123456789abcdef", from_offset=3, requested_at=timestamp(START), corrections=2)
    ],
    "probe": [
        Probe(version=1_742, probabilities=[{"fraud": 0.25, "ok": 0.75}, {}]),
        Probe(version=9, values=[2.5, None]),
    ],
    "challengers": [
        Challengers([Challenger("forest", ["river.forest.ARFClassifier", {"a.B": {"c": 1}}], "entropy"),
                     Challenger("bayes", ["river.naive_bayes.GaussianNB"])], random_twin=True),
        Challengers(),
    ],
    "promote": [
        Promote(id="0f0f", ledger_id="0123456789abcdef", name="forest", requested_at=timestamp(START)),
        Promote(id="0f0f", ledger_id="0123456789abcdef", name="forest", requested_at=timestamp(START),
                spec=["river.forest.ARFClassifier"], strategy="entropy"),
    ],
    "prediction": [Prediction("s-123", SOURCE, SHOWN, 0.96, 0.31, 0.61)],
}  # fmt: skip
LEDGER = (
    "genesis",
    "budget",
    "vote",
    "label",
    "unsolicited",
    "skip",
    "expire",
    "bucket",
    "observe",
    "grant",
    "correction",
    "rebuild",
    "probe",
    "challengers",
    "promote",
)


def values() -> dict[str, list[bytes]]:
    """Return the examples by kind, as they are written."""
    return {
        "sample": [
            _json({"id": "s-123", "features": FEATURES, "timestamp": "2026-11-21T01:00:00Z"}),
            _json({"id": 7, "features": {}}),
            _json({"features": {"x": 1}, "timestamp": 5}),
        ],
        "mapped sample": [
            _json({"who": {"id": "s-123"}, "payload": {"values": {"x": 1, "text": "a"}}, "at": 5, "other": 2}),
            _json({"who": {"id": 7}, "x": 1, "payload": {"values": {}}, "v": [1, 2.5]}),
        ],
        "flat sample": [_json({"who": {"id": "s-123"}, "x": 1, "text": "a", "v": [1, 2.5], "gone": None})],
        "request": [
            encode_request(REQUEST),
            encode_request(REQUEST, text="country"),
            encode_request(
                LabelRequest("s", "0-1", {}, Source("samples", 0, 1), QUERY, Shown("default", 7, value=-2.5),
                             timestamp(START), timestamp(START))
            ),
        ],
        "answer": answer_bytes(
            [Answer("s-123", "fraud", request_id="3-91823", annotator="ann", labeled_at="then"),
             *(Answer("s-123", label) for label in (1, True, "1", "true", ""))]
        ),
        "number": answer_bytes([Answer("s-123", 2.5), Answer("s-123", -3)]),
        "skipped answer": answer_bytes([Answer("s-123", skip=True, request_id="3-91823")]),
        "annotation": [_json({"action": "ANNOTATION_CREATED", "annotation": _annotation(), "task": _task()})],
        "annotated task": [_json({**_task(), "annotations": [_annotation()]})],
        **{kind: [encode(record) for record in records] for kind, records in RECORDS.items()},
        "partition state": [_partition().encode("a-ledger", 7).encode()],
        "answers' state": [b"", b"[120,5,3,40]"],
        "replay's state": [_progress()],
    }  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _task() -> dict:
    return json.loads(encode_request(REQUEST))


def _annotation() -> dict:
    choice = {"from_name": "label", "to_name": "features", "type": "choices", "value": {"choices": ["fraud"]}}
    return {
        "result": [choice], "was_cancelled": False, "completed_by": {"id": 3, "email": "ann@x"},
        "updated_at": "2026-11-21T02:00:00Z",
    }  # fmt: skip


def _partition() -> PartitionBudget:
    state = PartitionBudget(
        clock_ms=START, level=1_234, debt=5, seen=640, target=0.05, threshold=0.91, scale=3.5, shift=-0.25, asked=1.5,
        asked_of=30, arrivals=64.0, arrival_s=6.5, taken=9, live={9: Live("cap", 3, 2, START + 30_000, 0.25)},
    )  # fmt: skip
    state.histogram[10:20] = range(10)
    return state


def _progress() -> bytes:
    progress = Progress(None, 10)
    for offset in range(10, 60):
        (progress.left.append if offset % 3 else progress.done.add)(offset)
    return progress.at(60).state.encode()
