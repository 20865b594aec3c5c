"""A real Apache Kafka for the tests: one KRaft node on loopback, with its data in a temporary directory.

``python -m tests.kafka.broker --fetch`` only fetches the jars (once, with Maven, into ``.cache/kafka/<version>``).
The version is the property ``kafka.version`` of ``pom.xml`` beside this file.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
CACHE = HERE.parents[1] / ".cache" / "kafka"

# SerialGC, C1 only and shared class data: half the start time and memory of the defaults.
JVM = [
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
]
CLUSTER_ID = "c3RyZWFtLWFsLXRlc3RzMQ"

PROPERTIES = """\
node.id=1
process.roles=broker,controller
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},CABLE://127.0.0.1:{cable_port}{guarded}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},CABLE://127.0.0.1:{advertised_port}{guarded}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CABLE:PLAINTEXT,GUARDED:SASL_SSL
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# a transaction whose owner died is aborted this often (default 10 s)
transaction.abort.timed.out.transaction.cleanup.interval.ms={abort_interval_ms}
# until a node that was killed may register again (default 9 s)
broker.session.timeout.ms={node_session_ms}
broker.heartbeat.interval.ms=250
# log segments small enough for hundreds of test topics in a temporary directory
log.index.size.max.bytes=65536
num.network.threads=2
num.io.threads=4
background.threads=2
"""

# Over TLS, for those who know the password of a user.
GUARDED = """\
listener.name.guarded.ssl.keystore.type=PKCS12
listener.name.guarded.ssl.keystore.location={keystore}
listener.name.guarded.ssl.keystore.password={secret}
listener.name.guarded.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.guarded.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class MissingError(RuntimeError):
    """Something this machine lacks; the message is one line."""


def version() -> str:
    found = re.search(r"<kafka\.version>([^<]+)<", POM.read_text())
    assert found, f"{POM} names no kafka.version"
    return found[1]


def _tool(name: str, why: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"`{name}` is missing ({why})")
    return path


def fetch() -> Path:
    """Return the directory of the jars, fetched with Maven when they are not there yet."""
    libs = CACHE / version()
    if libs.is_dir():
        return libs
    mvn = _tool("mvn", "it fetches the jars of Apache Kafka")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        # Maven writes beside the pom; a copy keeps the working tree clean.
        pom, jars = Path(scratch) / "pom.xml", Path(scratch) / "jars"
        shutil.copy(POM, pom)
        command = [
            mvn,
            "-B",
            "-q",
            "-f",
            str(pom),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={jars}",
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900
        )
        if done.returncode or not jars.is_dir():
            first = next(
                (line for line in done.stdout.splitlines() if "ERROR" in line), done.stdout.strip()[-300:]
            )
            raise MissingError(f"Maven could not fetch Apache Kafka {version()}: {first}")
        try:
            jars.rename(libs)
        except OSError:  # another process was first
            if not libs.is_dir():
                raise
    return libs


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def certificate(directory: Path, name: str, secret: str) -> tuple[Path, Path]:
    """Make a key for 127.0.0.1 with a certificate signed by itself; return the store and the certificate (PEM)."""
    keytool = _tool("keytool", "it comes with Java")
    store, pem = directory / f"{name}.p12", directory / f"{name}.pem"
    common = ["-alias", name, "-keystore", str(store), "-storetype", "PKCS12", "-storepass", secret]
    made = [
        "-genkeypair",
        "-keyalg",
        "EC",
        "-dname",
        f"CN={name}",
        "-ext",
        "san=ip:127.0.0.1",
        "-validity",
        "2",
    ]
    for command in (made, ["-exportcert", "-rfc", "-file", str(pem)]):
        subprocess.run([keytool, *command, *common], check=True, capture_output=True, timeout=60)
    return store, pem


class KafkaNode:
    """One node; the same ports and data over every ``kill``/``stop`` and ``start``.

    It listens on a second port, ``cable_port``, and tells clients there to come to ``advertised_port``: to a proxy, say.
    With a ``user`` (name, password) it listens on a third one, ``guarded_port``: only there over TLS, with a certificate
    that ``authority`` verifies, and to that user.
    """

    def __init__(
        self,
        *,
        node_session_ms: int = 9_000,
        abort_interval_ms: int = 500,
        advertised_port: int | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        self._java = _tool("java", "Apache Kafka 4 needs Java 17")
        self._libs = fetch()
        self._dir = Path(tempfile.mkdtemp(prefix="kafka-node-"))
        self._port, controller_port, self.cable_port, self.guarded_port = _free_ports(4)
        self._config = self._dir / "server.properties"
        guarded, scram = "", []
        if user is not None:
            store, self.authority = certificate(self._dir, "node", CLUSTER_ID)
            guarded = GUARDED.format(keystore=store, secret=CLUSTER_ID)
            scram = ["--add-scram", "SCRAM-SHA-512=[name={},password={}]".format(*user)]
        self._config.write_text(
            guarded
            + PROPERTIES.format(
                guarded=f",GUARDED://127.0.0.1:{self.guarded_port}" if guarded else "",
                port=self._port,
                controller_port=controller_port,
                cable_port=self.cable_port,
                advertised_port=advertised_port or self.cable_port,
                data=self._dir / "data",
                node_session_ms=node_session_ms,
                abort_interval_ms=abort_interval_ms,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        formatted = ["format", "--standalone", "-t", CLUSTER_ID, "-c", str(self._config), *scram]
        self._run("kafka.tools.StorageTool", *formatted)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        return self._dir / "node.log"

    def start(self, timeout_s: float = 60.0) -> Self:
        assert self._process is None, "already running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._config)),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        try:
            self._wait_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL: as a power cut for the broker's process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, timeout_s: float = 20.0) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._dir, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, main: str, *args: str) -> list[str]:
        log_level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return [self._java, *JVM, log_level, "-cp", str(self._libs / "*"), main, *args]

    def _run(self, main: str, *args: str) -> None:
        done = subprocess.run(
            self._command(main, *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise MissingError(f"{main} failed: {' '.join(done.stdout.split())[-300:]}")

    def _wait_ready(self, deadline: float) -> None:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise MissingError(
                    f"Apache Kafka ended at once: {' '.join(self.log.read_text(errors='replace').split())[-300:]}"
                )
            try:
                # the port opens early, requests are answered only when the node is up
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=15_000).close()
                return
            except (OSError, KafkaError):
                time.sleep(0.05)
        raise MissingError(f"Apache Kafka was not ready in time; see {self.log}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fetch", action="store_true", help="only fetch the jars")
    if parser.parse_args().fetch:
        print(os.path.relpath(fetch()))
        return
    with KafkaNode() as node:
        print(node.bootstrap, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
