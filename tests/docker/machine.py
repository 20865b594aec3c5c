"""A Docker engine of the tests' own, and the base images that no registry is asked for.

Nothing of it is left behind: the engine keeps its data in a temporary directory and is ended by its own id. It has no
network; containers have their loopback, and only what is built uses the machine's.

What is fetched stays in ``.cache/docker``: Compose, promtool, Prometheus and Alertmanager as packages of the next
Debian (they run on this one), and the file system with Python that the image is built upon.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.kafka.broker import fetch as kafka_jars

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "docker"
SUITE = "trixie"
PACKAGES = ("docker-compose", "docker-buildx", "promtool", "prometheus", "prometheus-alertmanager")
TOOLS = ("dockerd", "docker", "mmdebstrap", "nsenter")
PYTHON_IMAGE = "stream-al-test/python:3.13"
# a build that is not told otherwise may take that long
PATIENCE_S = 240
PR_SET_PDEATHSIG = 1


class MissingError(RuntimeError):
    """Something this machine lacks; the message is one line."""


def missing() -> str:
    """Return what the tests need and this machine does not have; empty: nothing."""
    lacks = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        lacks.append("root")
    if not Path("/etc/apt/sources.list.d/debian.sources").exists():
        lacks.append("Debian 12")
    return ", ".join(lacks)


def run(*command: str | Path, timeout_s: float = PATIENCE_S, check: bool = True, **more):
    """Run a command to its end; one that fails shows what it said."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=timeout_s, **more
    )
    if check and done.returncode:
        said = (done.stdout + done.stderr)[-3_000:]
        raise AssertionError(f"{' '.join(map(str, command))[:300]} ended with {done.returncode}:\n{said}")
    return done


# --- what is fetched ----------------------------------------------------------------------------------------------


def _sources(directory: Path) -> Path:
    """Write the machine's own apt sources, for the next release, without touching apt's state."""
    text = Path("/etc/apt/sources.list.d/debian.sources").read_text(encoding="utf-8")
    file = directory / "debian.sources"
    file.write_text(text.replace("bookworm", SUITE), encoding="utf-8")
    return file


def tools() -> Path:
    """Return the directory into which the packages were unpacked, fetched once."""
    unpacked = CACHE / "tools"
    if unpacked.is_dir():
        return unpacked
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        where = Path(scratch)
        where.chmod(0o755)
        for name in ("lists/partial", "cache/archives/partial", "debs", "root"):
            (where / name).mkdir(parents=True)
        config = where / "apt.conf"
        config.write_text(
            f'Dir::Etc::sourcelist "{_sources(where)}";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{where}/lists";\nDir::Cache "{where}/cache";\nAPT::Sandbox::User "root";\n'
        )
        environ = {**os.environ, "APT_CONFIG": str(config)}
        run("apt-get", "update", "-qq", env=environ)
        run("apt-get", "download", "-qq", *PACKAGES, env=environ, cwd=where / "debs")
        for package in (where / "debs").glob("*.deb"):
            run("dpkg-deb", "-x", package, where / "root")
        (where / "root").rename(unpacked)
    return unpacked


def python_base() -> Path:
    """Return a file system with Python as a tar file, made once; in memory, because of its thousands of files."""
    tar = CACHE / "python.tar"
    if tar.exists():
        return tar
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        made = Path(scratch) / "python.tar"
        forget = 'rm -rf "$1"/etc/apt/sources.list.d/* "$1"/etc/resolv.conf "$1"/var/lib/apt/lists/* "$1"/etc/hostname'
        run(
            "mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,python3,python3-venv",
            "--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*", f"--customize-hook={forget}",
            SUITE, made, _sources(Path(scratch)),
            env={**os.environ, "TMPDIR": _memory()},
        )  # fmt: skip
        made.rename(tar)
    return tar


def _memory() -> str:
    """Return a directory in memory if there is room in it, else the usual one for temporary files."""
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 6 << 30 else tempfile.gettempdir()


# --- the engine ---------------------------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """Let the engine end, and its containers with it, even if the tests are killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Engine:
    """dockerd with data of its own; ``docker`` and ``compose`` talk to it and to no other."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="stream-al-docker-", dir=_memory()))
        self.pid_file = self.dir / "dockerd.pid"
        plugins = self.dir / "config" / "cli-plugins"
        plugins.mkdir(parents=True)
        for plugin in (tools() / "usr/libexec/docker/cli-plugins").iterdir():
            shutil.copy(plugin, plugins)
        self.environ = {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.dir}/docker.sock",
            "DOCKER_CONFIG": str(self.dir / "config"),
            "DOCKER_BUILDKIT": "1",
        }
        with (self.dir / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd", "--data-root", f"{self.dir}/data", "--exec-root", f"{self.dir}/exec",
                    "--pidfile", str(self.pid_file), "-H", self.environ["DOCKER_HOST"],
                    "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_end_with_parent,
            )  # fmt: skip
        until = time.monotonic() + 30
        while self.docker("info", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > until:
                said = (self.dir / "dockerd.log").read_text(errors="replace")[-1_000:]
                self.close()
                raise MissingError(f"dockerd does not run here: {' '.join(said.split())}")
            time.sleep(0.1)

    def docker(self, *arguments: str | Path, check: bool = True, **more):
        return run("docker", *arguments, check=check, env=self.environ, **more)

    def compose(self, files: list[Path], *arguments: str, environ: dict[str, str] | None = None, **more):
        named = [part for file in files for part in ("-f", str(file))]
        return run("docker", "compose", *named, *arguments, env={**self.environ, **(environ or {})}, **more)

    def inspect(self, container: str) -> dict:
        return json.loads(self.docker("inspect", container).stdout)[0]

    def close(self) -> None:
        """End the engine by its id, with all containers, and remove its data."""
        with contextlib.suppress(Exception):
            if ids := self.docker("ps", "-q", timeout_s=20).stdout.split():
                self.docker("kill", *ids, timeout_s=30)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for line in reversed(Path("/proc/mounts").read_text(encoding="utf-8").splitlines()):
            if (mounted := line.split()[1]).startswith(str(self.dir)):
                run("umount", "-l", mounted, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    # --- images -----------------------------------------------------------------------------------------------

    def import_python(self) -> None:
        """Import the base image that stands in for ``python:3.13-slim``."""
        self.docker("import", "-c", "ENV PATH=/usr/local/bin:/usr/bin:/bin", python_base(), PYTHON_IMAGE)

    def build(self, tag: str, *arguments: str | Path) -> None:
        """Build the service's image from its own Dockerfile; pip's settings of this machine come in as secrets."""
        settings = self.dir / "pip.conf"
        bundle = os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
        found = run("python3", "-m", "pip", "config", "list", check=False).stdout
        lines = [
            line.partition("=") for line in found.splitlines() if line.startswith(("global.", "install."))
        ]
        kept = {k.split(".", 1)[1]: v.strip("'") for k, _, v in lines if "index-url" in k}
        kept["cert"] = "/run/secrets/ca_bundle"
        settings.write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in kept.items()))
        self.docker(
            "build", "--network=host", "--progress=plain", "--build-arg", f"PYTHON_IMAGE={PYTHON_IMAGE}",
            "--secret", f"id=pip_conf,src={settings}", "--secret", f"id=ca_bundle,src={bundle}",
            *arguments, "-t", tag, "-f", ROOT / "docker" / "Dockerfile", ROOT,
        )  # fmt: skip

    def build_stand_in(self, tag: str, dockerfile: str, files: dict[str, Path]) -> None:
        """Build an image under the name of one from a registry, of files of this machine."""
        with tempfile.TemporaryDirectory(dir=self.dir) as context:
            for name, source in files.items():
                if source.is_dir():
                    # a directory of links into other places, as Java's is, becomes what they point to
                    shutil.copytree(source, Path(context) / name, ignore_dangling_symlinks=True)
                else:
                    shutil.copy(source, Path(context) / name)
            (Path(context) / "Dockerfile").write_text(f"FROM {PYTHON_IMAGE}\n{dockerfile}")
            self.docker("build", "-q", "--network=none", "-t", tag, context)


def stand_in(name: str) -> tuple[str, dict[str, Path]]:
    """Return Dockerfile and files of the image that stands in for a service's."""
    binaries = tools() / "usr/bin"
    if name == "prometheus":
        lines = [
            "COPY prometheus promtool /bin/",
            "RUN install -d -o 65534 -g 65534 /prometheus",
            "USER 65534",
            "WORKDIR /prometheus",
            'ENTRYPOINT ["/bin/prometheus"]',
        ]
        files = {"prometheus": binaries / "prometheus", "promtool": binaries / "promtool"}
    elif name == "alertmanager":
        lines = [
            "COPY alertmanager amtool /bin/",
            "COPY templates /usr/share/prometheus/alertmanager",
            "RUN install -d -o 65534 -g 65534 /alertmanager",
            "USER 65534",
            "WORKDIR /alertmanager",
            'ENTRYPOINT ["/bin/alertmanager"]',
        ]
        files = {
            "alertmanager": binaries / "prometheus-alertmanager",
            "amtool": binaries / "amtool",
            "templates": tools() / "usr/share/prometheus/alertmanager",
        }
    else:
        lines = [
            "COPY java /opt/java",
            "COPY jars /opt/kafka/libs",
            "COPY kafka /opt/kafka/run",
            "RUN install -d -o 1000 -g 1000 /var/lib/kafka/data /opt/kafka/config",
            "ENV PATH=/opt/java/bin:/usr/bin:/bin",
            "USER 1000",
            'CMD ["bash", "/opt/kafka/run"]',
        ]
        java = Path(shutil.which("java") or "").resolve().parents[1]
        files = {"java": java, "jars": kafka_jars(), "kafka": HERE / "kafka.sh"}
    return "\n".join(lines) + "\n", files
