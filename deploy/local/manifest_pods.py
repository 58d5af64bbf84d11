"""Of rendered manifests: what pods need to be rolled, drained and spread."""

import re
from collections.abc import Iterator
from datetime import timedelta

import parts
from renders import Document

from shared.web.server.server import GRACE

OURS = ("app.kubernetes.io/name", "macromdm")
COMPONENT = "app.kubernetes.io/component"


STARTS_WITHIN, SILENT_AT_MOST = timedelta(seconds=60), timedelta(seconds=30)
"""Restarts that come sooner than so make a slow node slower."""


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [each for each in documents if each["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document | None:
    found = (each for each in of_kind(documents, kind) if each["metadata"]["name"] == name)
    return next(found, None)


def is_ours(workload: Document) -> bool:
    key, value = OURS
    return bool(labels(workload).get(key) == value)


def labels(workload: Document) -> dict[str, str]:
    """Those of its pods."""
    found: dict[str, str] = workload["spec"]["template"].get("metadata", {}).get("labels", {})
    return found


def workloads(documents: list[Document]) -> list[Document]:
    """Our Deployments, and the Job."""
    return [each for each in of_kind(documents, "Deployment", "Job") if is_ours(each)]


def deployments(documents: list[Document]) -> list[Document]:
    return [each for each in of_kind(documents, "Deployment") if is_ours(each)]


def selects(selector: Document, of: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= of.items():
        return False
    for rule in selector.get("matchExpressions", ()):
        if (of.get(rule["key"]) in rule["values"]) != (rule["operator"] == "In"):
            return False
    return True


def service_faults(documents: list[Document]) -> Iterator[str]:
    """Each service is there, runs its command and listens on its ports."""
    for name, port in parts.SERVICES.items():
        deployment = named(documents, "Deployment", f"macromdm-{name}")
        service = named(documents, "Service", f"macromdm-{name}")
        if deployment is None or service is None:
            yield f"{name}: the Deployment or the Service is missing"
            continue
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        listens = {each["name"]: each["value"] for each in container["env"]}
        if (listens.get("MDM_HTTP"), listens.get("MDM_OPS_HTTP")) != (
            f":{port}",
            f":{port + 1000}",
        ):
            yield f"{name}: does not listen on {port} and {port + 1000}"
        if container["args"] != [name] or ports != {"http": port, "ops": port + 1000}:
            yield f"{name}: runs another service, or on another port"
        offered = {
            each["name"]: (each["port"], each["targetPort"]) for each in service["spec"]["ports"]
        }
        if offered != {"http": (port, "http"), "ops": (port + 1000, "ops")}:
            yield f"{name}: the Service has other ports"
        if service["spec"]["selector"] != labels(deployment):
            yield f"{name}: the Service does not select the pods"


EXACT_IMAGE = re.compile(r"(:\d+\.\d+\.\d+(-\w+)?|@sha256:[0-9a-f]{64})$")
"""`mongo:8` would be another program after a pull."""


def image_faults(documents: list[Document]) -> Iterator[str]:
    """All of ours have one image; those of others have an exact version."""
    ours = {
        each["spec"]["template"]["spec"]["containers"][0]["image"] for each in workloads(documents)
    }
    if len(ours) != 1 or not re.search(r"(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", min(ours)):
        yield f"the images of the services are {sorted(ours)}: one is wanted, with a version"
    others = [
        container["image"]
        for each in of_kind(documents, "StatefulSet")
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    others += [each["spec"]["image"] for each in of_kind(documents, "RabbitmqCluster")]
    yield from (f"{each} has no exact version" for each in others if not EXACT_IMAGE.search(each))


def pod_faults(documents: list[Document]) -> Iterator[str]:
    for workload in workloads(documents):
        name, pod = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
        [container] = pod["containers"]
        secure, own = pod.get("securityContext", {}), container.get("securityContext", {})
        if not (
            secure.get("runAsNonRoot")
            and secure.get("runAsUser")
            and secure.get("fsGroup") == secure.get("runAsGroup")
            and secure.get("seccompProfile") == {"type": "RuntimeDefault"}
            and own.get("allowPrivilegeEscalation") is False
            and own.get("readOnlyRootFilesystem")
            and own.get("capabilities") == {"drop": ["ALL"]}
        ):
            yield f"{name}: its security context is not the restricted one"
        if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks"):
            yield f"{name}: it gets a token or the variables of services"
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or not resources.get(
            "limits", {}
        ).get("memory"):
            yield f"{name}: has no requests, or no limit of memory"
        if workload["kind"] == "Deployment":
            yield from (f"{name}: {fault}" for fault in life_faults(documents, pod, container))
            if workload["spec"]["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
                yield f"{name}: an old pod ends before a new one is ready"
        elif container["args"] != ["store", "prepare"]:
            yield f"{name}: does not prepare the store"


def probe_faults(container: Document) -> Iterator[str]:
    asked = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in asked.items():
        if container.get(probe, {}).get("httpGet") != {"path": path, "port": "ops"}:
            yield f"the {probe} does not ask {path} on the ops port"
    for probe, least in (("startupProbe", STARTS_WITHIN), ("livenessProbe", SILENT_AT_MOST)):
        given = container.get(probe, {})
        if (
            given.get("periodSeconds", 10) * given.get("failureThreshold", 3)
            < least.total_seconds()
        ):
            yield f"the {probe} restarts it within {least.total_seconds():.0f} s"


def life_faults(documents: list[Document], pod: Document, container: Document) -> Iterator[str]:
    """Starts, ends and moves without a request that fails."""
    yield from probe_faults(container)
    pause = (
        container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
    )
    needed = timedelta(seconds=int(pause[1])) + GRACE
    if pause[0] != "sleep" or int(pause[1]) < 5:
        yield "it stops listening before the endpoints forget it"
    if timedelta(seconds=pod.get("terminationGracePeriodSeconds", 30)) <= needed:
        yield f"it may be killed before its {needed.total_seconds():.0f} s to end are over"
    spread = {each["topologyKey"]: each for each in pod.get("topologySpreadConstraints", ())}
    for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone"):
        if COMPONENT not in spread.get(key, {}).get("matchLabelKeys", ()):
            yield f"its replicas are not spread by {key}"
    if named(documents, "ServiceAccount", pod.get("serviceAccountName", "")) is None:
        yield "has no ServiceAccount of its own"


def drain_faults(documents: list[Document]) -> Iterator[str]:
    """A drain takes one replica at a time."""
    budgets = of_kind(documents, "PodDisruptionBudget")
    for deployment in deployments(documents):
        own = [
            each
            for each in budgets
            if selects(each["spec"]["selector"], labels(deployment))
            and each["spec"].get("maxUnavailable") == 1
        ]
        if len(own) != 1:
            yield f"{deployment['metadata']['name']}: no PodDisruptionBudget keeps all replicas but one"


def account_faults(documents: list[Document]) -> Iterator[str]:
    """A RoleBinding names a Role and accounts that exist, and MongoDB's operator has the one of its pods."""
    wanted = [
        ("ServiceAccount", "mongodb-database") for _ in of_kind(documents, "MongoDBCommunity")
    ]
    for binding in of_kind(documents, "RoleBinding"):
        wanted += [
            (each["kind"], each["name"]) for each in (binding["roleRef"], *binding["subjects"])
        ]
        for subject in binding["subjects"]:
            if subject.get("namespace") != binding["metadata"].get("namespace"):
                yield f"{binding['metadata']['name']}: binds an account of another namespace"
    for kind, name in wanted:
        if named(documents, kind, name) is None:
            yield f"there is no {kind} {name}"


CHECKS = (service_faults, image_faults, pod_faults, drain_faults, account_faults)
