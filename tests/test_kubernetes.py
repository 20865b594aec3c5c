"""The Kubernetes files say what the service really has: ports, probes, settings, groups, and no secrets."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import pytest
import yaml

from stream_al import config_source
from stream_al.config import ConfigError, Settings, load
from stream_al.service.loop import Role
from stream_al.web.access import is_local
from stream_al.web.app import PAGES
from tests.outside import npm

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "docker" / "kubernetes"
OVERLAYS = ("plain", "production")
DRAIN_S = 10
EXTENSIONS = {"keda.sh", "monitoring.coreos.com"}
STORED = MappingProxyType({"username": "stream-al", "password": "0123456789", "ca.crt": "..."})

rendering = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")


def documents(path):
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


@functools.cache
def rendered(overlay):
    done = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / "overlays" / overlay],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def of(kind, found):
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def base():
    return [
        found
        for path in sorted((KUBERNETES / "base").glob("[!k]*.yaml"))
        if path.name != "config.yaml"
        for found in documents(path)
    ]


BASE = base()
DEPLOYMENTS = of("Deployment", BASE)


def pod(deployment):
    return deployment["spec"]["template"]["spec"]


def container(deployment):
    [only] = pod(deployment)["containers"]
    return only


def settings_of(deployment, config):
    """Load the settings as a pod does: from the file and its variables, secrets filled in."""
    environ = {}
    for variable in container(deployment).get("env", []):
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        environ[variable["name"]] = variable["value"] if secret is None else STORED[secret["key"]]
    for source in container(deployment).get("envFrom", []):
        environ[source["prefix"] + "ANN__TOKEN"] = "t" * 20
        environ[source["prefix"] + "ANN__ROLE"] = "owner"
    return load(config, environ=environ)


@pytest.fixture(params=sorted(DEPLOYMENTS))
def deployment(request):
    return DEPLOYMENTS[request.param]


@pytest.fixture(params=["base/config.yaml", "overlays/production/config.yaml"])
def config(request):
    return KUBERNETES / request.param


def test_every_file_is_used():
    used = set()
    for path in KUBERNETES.rglob("kustomization.yaml"):
        [found] = documents(path)
        named = [*found.get("resources", []), *found.get("components", [])]
        named += [name for made in found.get("configMapGenerator", []) for name in made["files"]]
        used |= {path, *((path.parent / name).resolve() for name in named)}
    assert {path for path in KUBERNETES.rglob("*.yaml") if path not in used} == set()


def test_each_role_has_a_deployment(deployment):
    verb, option, role, *_ = container(deployment)["args"]
    assert (verb, option) == ("run", "--role")
    assert role in get_args(Role)
    assert deployment["metadata"]["name"] == f"stream-al-{role}"
    assert DEPLOYMENTS.keys() == {"stream-al-scorer", "stream-al-learner", "stream-al-desk"}


def test_ports_and_probes_are_those_of_the_service(deployment, config):
    c = container(deployment)
    settings = settings_of(deployment, config)
    assert c["ports"] == [{"name": "http", "containerPort": settings.http.port}]
    assert not is_local(settings.http.host)
    probes = {name: c[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz",
    }  # fmt: skip
    assert all(probe["path"] in PAGES and probe["port"] == "http" for probe in probes.values())


def test_what_is_written_is_on_a_volume(deployment, config):
    mounts = {mount["name"]: mount["mountPath"] for mount in container(deployment)["volumeMounts"]}
    assert str(settings_of(deployment, config).state_dir).startswith(mounts["state"] + "/")
    assert {volume["name"] for volume in pod(deployment)["volumes"]} == mounts.keys()
    assert container(deployment)["args"][-1] == f"{mounts['config']}/config.yaml"


def test_only_the_desk_keeps_what_is_not_in_topics():
    durable = {
        name
        for name, deployment in DEPLOYMENTS.items()
        if any("persistentVolumeClaim" in volume for volume in pod(deployment)["volumes"])
    }
    assert durable == {"stream-al-desk"}
    assert DEPLOYMENTS["stream-al-desk"]["spec"]["replicas"] == 1
    assert DEPLOYMENTS["stream-al-desk"]["spec"]["strategy"]["type"] == "Recreate"


def test_a_learner_stands_by():
    """That it takes over from a killed owner is tests/e2e: test_a_standby_takes_over_..."""
    assert DEPLOYMENTS["stream-al-learner"]["spec"]["replicas"] == 2
    assert of("PodDisruptionBudget", BASE)["stream-al-learner"]["spec"]["minAvailable"] == 1


def test_pods_have_no_rights(deployment):
    """The restricted profile of Pod Security Standards."""
    spec, c = pod(deployment), container(deployment)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert spec["automountServiceAccountToken"] is False
    assert c["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert c["resources"]["limits"]["memory"]
    assert spec["terminationGracePeriodSeconds"] > DRAIN_S


def test_variables_made_of_services_would_be_refused_and_so_are_not_made(deployment):
    made = {f"{name.upper().replace('-', '_')}_PORT": "tcp://10.0.0.1:9108" for name in of("Service", BASE)}
    with pytest.raises(ConfigError, match="two underscores"):
        config_source.from_environment(made, Settings.model_fields)
    assert pod(deployment)["enableServiceLinks"] is False


def test_selectors_find_their_pods():
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in DEPLOYMENTS.values()]
    assert all(d["spec"]["selector"]["matchLabels"] in labels for d in DEPLOYMENTS.values())
    assert all(s["spec"]["selector"] in labels for s in of("Service", BASE).values())
    assert all(
        p["spec"]["selector"]["matchLabels"] in labels for p in of("PodDisruptionBudget", BASE).values()
    )
    for service in of("Service", BASE).values():
        assert service["spec"]["ports"] == [{"name": "http", "port": 9108, "targetPort": "http"}]


def test_the_rules_are_those_of_prometheus():
    spec = importlib.util.spec_from_file_location("generate", KUBERNETES / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.TARGET.read_text(encoding="utf-8") == generate.prometheus_rule(), "run make docs"


@rendering
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_whole(overlay):
    found = rendered(overlay)
    maps = of("ConfigMap", found)
    assert {one["metadata"].get("namespace", "stream-al") for one in found} == {"stream-al"}
    for one in of("Deployment", found).values():
        [name] = [v["configMap"]["name"] for v in pod(one)["volumes"] if v["name"] == "config"]
        assert name in maps
        assert {m["name"] for m in container(one)["volumeMounts"]} == {v["name"] for v in pod(one)["volumes"]}


@rendering
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_named_and_not_held(overlay):
    found = rendered(overlay)
    assert not of("Secret", found)
    for one in of("Deployment", found).values():
        for variable in container(one).get("env", []):
            assert not config_source.is_secret(variable["name"]) or "value" not in variable
    for made in of("ConfigMap", found).values():
        assert not list(config_source.secret_keys(yaml.safe_load(made["data"]["config.yaml"])))


@rendering
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_may_ask_for_names(overlay):
    """Labels that kustomize adds to selectors would cut the pods off from the name server."""
    policy = of("NetworkPolicy", rendered(overlay))["stream-al"]["spec"]
    names = [rule for rule in policy["egress"] if {"protocol": "UDP", "port": 53} in rule["ports"]]
    [[to]] = [rule["to"] for rule in names]
    assert to["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
    assert policy["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "stream-al"}}


@rendering
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_broker_may_be_reached(overlay):
    found = rendered(overlay)
    [made] = of("ConfigMap", found).values()
    host = yaml.safe_load(made["data"]["config.yaml"])["broker"]["url"].removeprefix("kafka://")
    namespace, port = re.fullmatch(r"[\w-]+\.([\w-]+):(\d+)", host).groups()
    [allowed] = [
        rule["ports"]
        for rule in of("NetworkPolicy", found)["stream-al"]["spec"]["egress"]
        if rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
    ]
    assert {"protocol": "TCP", "port": int(port)} in allowed


@rendering
def test_the_settings_of_production_can_be_loaded(tmp_path):
    found = rendered("production")
    [made] = of("ConfigMap", found).values()
    file = tmp_path / "config.yaml"
    file.write_text(made["data"]["config.yaml"])
    for one in of("Deployment", found).values():
        client = settings_of(one, file).broker.client
        assert client["sasl_plain_password"] == STORED["password"]
        assert client["security_protocol"] == "SASL_SSL"
        [ca] = [m["mountPath"] for m in container(one)["volumeMounts"] if m["name"] == "kafka-ca"]
        assert client["ssl_cafile"] == f"{ca}/ca.crt"
    assert settings_of(of("Deployment", found)["stream-al-desk"], file).desk.people["ann"].role == "owner"


@rendering
def test_keda_counts_what_scorers_read():
    found = rendered("production")
    [made] = of("ConfigMap", found).values()
    settings = Settings.model_validate(yaml.safe_load(made["data"]["config.yaml"]))
    scaled = of("ScaledObject", found)["stream-al-scorer"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in of("Deployment", found)
    assert "replicas" not in of("Deployment", found)["stream-al-scorer"]["spec"]
    assert scaled["maxReplicaCount"] == settings.broker.partitions
    [trigger] = scaled["triggers"]
    assert trigger["metadata"]["bootstrapServers"] == settings.broker.url.removeprefix("kafka://")
    assert trigger["metadata"]["consumerGroup"] == f"{settings.group}-scorer"
    assert trigger["metadata"]["topic"] == settings.topics.samples
    assert trigger["metadata"]["offsetResetPolicy"] == settings.samples.start
    assert trigger["authenticationRef"]["name"] in of("TriggerAuthentication", found)


@rendering
def test_prometheus_finds_every_service_under_the_name_that_rules_expect():
    found = rendered("production")
    monitor = of("ServiceMonitor", found)["stream-al"]["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = of("Service", found)
    assert {n for n, s in services.items() if wanted <= s["metadata"]["labels"].items()} == services.keys()
    assert monitor["endpoints"][0]["port"] == "http"
    assert monitor["endpoints"][0]["path"] in PAGES
    jobs = set(
        re.findall(r'job=~"([^"]+)"', yaml.safe_dump(of("PrometheusRule", found)["stream-al"], width=1000))
    )
    assert jobs
    assert all(re.fullmatch(job, name) for job in jobs for name in services)


@rendering
@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_would_take_it(overlay):
    validate = pytest.importorskip("kubernetes_validate")
    known = 0
    for resource in rendered(overlay):
        if resource["apiVersion"].split("/")[0] in EXTENSIONS:
            continue
        validate.validate(resource, "1.32", strict=True)
        known += 1
    assert known > 10


CRDS = """
import * as keda from '@kubernetes-models/keda/keda.sh/v1alpha1';
import * as prometheus from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';
import {readFileSync} from 'node:fs';
for (const found of JSON.parse(readFileSync(0))) {
  const Kind = keda[found.kind] ?? prometheus[found.kind];
  try { new Kind(found).validate(); console.log('ok'); } catch (problem) { console.log(problem.message); }
}
"""


@rendering
@pytest.mark.slow
def test_what_extends_kubernetes_is_as_its_definitions_say(tmp_path):
    npm(tmp_path, "@kubernetes-models/keda@0.4.2", "@kubernetes-models/prometheus-operator@6.0.0")
    (tmp_path / "check.mjs").write_text(CRDS)
    extra = [one for one in rendered("production") if one["apiVersion"].split("/")[0] in EXTENSIONS]
    assert {one["kind"] for one in extra} == {
        "ScaledObject",
        "TriggerAuthentication",
        "ServiceMonitor",
        "PrometheusRule",
    }
    spoiled = json.loads(json.dumps(of("ScaledObject", extra)["stream-al-scorer"]))
    spoiled["spec"]["triggers"][0]["metadata"]["lagThreshold"] = 10
    done = subprocess.run(
        ["node", "check.mjs"],
        cwd=tmp_path,
        input=json.dumps([*extra, spoiled]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *good, bad = done.stdout.splitlines()
    assert good == ["ok"] * len(extra)
    assert "lagThreshold must be string" in bad
