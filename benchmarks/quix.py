"""The ordinary loop as Quix Streams is written, in an environment of its own: it pins older libraries than ours.

``PYTHON benchmarks/quix.py SERVERS TOPIC GROUP WARM N`` prints the microseconds of CPU that each of N samples took,
after WARM others; ``throughput.py --kafka --quix PYTHON`` runs it in turn with the scorers. PYTHON's environment holds
quixstreams and river, and nothing of this project.
"""

import json
import sys
import time

from quixstreams import Application
from river import active, linear_model, preprocessing

ASK_EVERY = 20


def main(servers: str, source: str, group: str, warm: int, n: int) -> None:
    """Read, score and forward every twentieth sample; print what one took."""
    app = Application(
        broker_address=servers, consumer_group=group, auto_offset_reset="earliest", loglevel="ERROR"
    )
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    sampler = active.EntropySampler(model, seed=1)
    seen, started = 0, 0.0
    for line in sys.stdin:  # labels
        features, label = json.loads(line)
        model.learn_one(features, label)

    def score(sample: dict) -> dict:
        nonlocal seen, started
        sampler.predict_one(sample["features"])
        seen += 1
        if seen == warm:
            started = time.process_time()
        elif seen == warm + n:
            print(1e6 * (time.process_time() - started) / n, flush=True)
        return sample

    samples = app.dataframe(app.topic(source, value_deserializer="json")).apply(score)
    samples = samples.filter(lambda _: seen % ASK_EVERY == 0)
    samples = samples.apply(lambda sample: {"id": sample["id"], "features": sample["features"]})
    samples.to_topic(app.topic("quix", value_serializer="json"))
    app.run(count=warm + n, timeout=60)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))
