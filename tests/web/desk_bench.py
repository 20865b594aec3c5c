"""The real service in one thread, with a desk, on the log in memory and a clock that is set by hand."""

from __future__ import annotations

import json

from stream_al.codec import decode_answer
from stream_al.config import load
from stream_al.service.desk import DeskRoom
from stream_al.service.loop import Service, topic_specs
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output, TopicPartition

START_MS = 1_767_225_600_000
TOKENS = {"ann": "a" * 20, "bob": "b" * 20, "own": "o" * 20}
PEOPLE = {
    name: {"token": token, "role": "owner" if name == "own" else "annotator"}
    for name, token in TOKENS.items()
}


class Bench:
    def __init__(self, state_dir=None, *overrides, broker=None, people=PEOPLE):
        self.ms = START_MS
        directory = "null" if state_dir is None else str(state_dir)
        known = "[fraud, ok]" if not any("model." in text for text in overrides) else "null"
        self.settings = load(
            None,
            [
                f"state_dir={directory}",
                "budget.fraction=1",
                "broker.partitions=1",
                f"model.classes={known}",
                "desk.blind=0",
                "labels.wait_unknown_s=0",
                *overrides,
            ],
            environ={"STREAM_AL_DESK__PEOPLE": json.dumps(people)} if people else {},
        )
        self.broker = broker or EmbeddedBroker(":memory:", clock=lambda: self.ms / 1000)
        self.broker.ensure(topic_specs(self.settings), create=True)
        self.open()

    def open(self):
        self.room = DeskRoom(self.settings, lambda: self.ms)
        self.service = Service(
            self.broker, self.settings, "all", clock=lambda: self.ms, slot="bench", room=self.room
        )
        self.turn()

    def kill(self):
        """End as a crash does: nothing is drained."""
        self.service.close()
        self.room.close()

    close = kill

    def turn(self, times=8, ms=100):
        for _ in range(times):
            self.ms += ms
            self.service.turn()

    def ask(self, n=5, **features):
        """Feed samples until so many questions are open."""
        for i in range(100):
            if len(self.room.machine.questions) >= n:
                return
            row = {"id": f"s-{self.ms}", "features": features or {"x": float(i)}}
            self.broker.append([Output("samples", json.dumps(row).encode())])
            self.turn(4)
        raise AssertionError("the service asks for nothing")

    def wait(self, seconds):
        """Let time pass in small steps: grants refill nothing after a jump."""
        self.turn(times=max(2, round(seconds)), ms=1_000)

    def topic(self, name):
        begins = {TopicPartition(name, p): o for p, o in self.broker.begins(name).items()}
        with self.broker.reader(begins) as reader:
            return [record for records in reader.poll(1_000, 0.0).values() for record in records]

    def answers(self):
        """Return what stands on the topic of labels."""
        return [decode_answer(record, self.settings.model.task) for record in self.topic("labels")]
