"""One engine and one image for all tests of containers; fetched and built at the same time where that is possible."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stream_al import __version__
from tests.docker.machine import ROOT, Engine, MissingError, missing, python_base, stand_in, tools
from tests.docker.stack import IMAGE, Stack
from tests.kafka.broker import MissingError as NoKafkaError
from tests.outside import lacking

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session", autouse=True)
def ending() -> None:
    """Let a SIGTERM end the tests as Ctrl-C does, so that the engine goes with them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def refuse(why: str) -> None:
    """Skip, or fail where containers are required (``make test-docker``)."""
    lacking(f"no containers: {why}", "DOCKER")


@pytest.fixture(scope="session")
def unpacked() -> Path:
    """The directory with promtool and the rest."""
    if lacks := missing():
        refuse(f"missing: {lacks}")
    return tools()


@pytest.fixture(scope="session")
def engine(unpacked) -> Iterator[Engine]:
    try:
        python_base()
        engine = Engine()
    except MissingError as why:
        refuse(str(why))
        raise
    try:
        engine.import_python()
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session")
def composed() -> dict:
    """The services of the Compose file, as written."""
    text = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["services"]


@pytest.fixture(scope="session")
def images(engine, composed) -> str:
    """Build the service's image, and those that stand in for Prometheus'; return the name of the first."""
    engine.build(IMAGE, "--build-arg", f"VERSION={__version__}", "--build-arg", "REVISION=test")
    for name in ("prometheus", "alertmanager"):
        engine.build_stand_in(composed[name]["image"], *stand_in(name))
    return IMAGE


@pytest.fixture(scope="session")
def kafka(engine, images, composed) -> None:
    """Build the image that stands in for Kafka's. Without its jars the embedded profile is still tested."""
    try:
        engine.build_stand_in(composed["kafka"]["image"], *stand_in("kafka"))
    except NoKafkaError as why:
        refuse(f"THE STACK ON APACHE KAFKA WAS NOT RUN, only the embedded profile: {why}")


@pytest.fixture(scope="module")
def stack(request, engine, images, tmp_path_factory) -> Iterator[Stack]:
    """The system with the module's ``PROFILE``."""
    if request.module.PROFILE == "demo":
        request.getfixturevalue("kafka")
    directory = tmp_path_factory.mktemp("stack")
    with Stack(engine, request.module.PROFILE, directory) as stack:
        failed = request.session.testsfailed
        yield stack
        if request.session.testsfailed > failed:
            print(stack.compose("ps", "--all", check=False).stdout)
            print(stack.compose("logs", "--tail", "30", check=False).stdout[-20_000:])
