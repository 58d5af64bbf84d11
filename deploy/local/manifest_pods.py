"""Of rendered manifests: what pods need to be rolled, drained, spread and kept apart, and what names them."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import parts
from renders import Document

from shared.messaging.topology import QUEUES
from shared.web.server.server import GRACE

OURS = ("app.kubernetes.io/name", "macromdm")
COMPONENT = "app.kubernetes.io/component"


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [each for each in documents if each["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document | None:
    found = (each for each in of_kind(documents, kind) if each["metadata"]["name"] == name)
    return next(found, None)


def is_ours(workload: Document) -> bool:
    key, value = OURS
    return bool(labels(workload).get(key) == value)


def labels(workload: Document) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
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
        if container["args"] != [name] or ports != {"http": port, "ops": port + 1000}:
            yield f"{name}: runs another service, or on another port"
        offered = {
            each["name"]: (each["port"], each["targetPort"]) for each in service["spec"]["ports"]
        }
        if offered != {"http": (port, "http"), "ops": (port + 1000, "ops")}:
            yield f"{name}: the Service has other ports"
        if service["spec"]["selector"] != labels(deployment):
            yield f"{name}: the Service does not select the pods"


def pod_faults(documents: list[Document]) -> Iterator[str]:
    for workload in workloads(documents):
        name, pod = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
        [container] = pod["containers"]
        secure, own = pod.get("securityContext", {}), container.get("securityContext", {})
        if not (
            secure.get("runAsNonRoot")
            and secure.get("runAsUser")
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


def life_faults(documents: list[Document], pod: Document, container: Document) -> Iterator[str]:
    """Starts, ends and moves without a request that fails."""
    asked = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in asked.items():
        if container.get(probe, {}).get("httpGet") != {"path": path, "port": "ops"}:
            yield f"the {probe} does not ask {path} on the ops port"
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


def scaling_faults(documents: list[Document]) -> Iterator[str]:
    """Who scales names a Deployment, which then has no number of its own; all others have two, but for
    development."""
    scalers = of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
    scaled = [each["spec"]["scaleTargetRef"]["name"] for each in scalers]
    for name in scaled:
        deployment = named(documents, "Deployment", name)
        if deployment is None or "replicas" in deployment["spec"]:
            yield f"{name}: is scaled, and does not exist or has a number of replicas of its own"
    for deployment in deployments(documents):
        name = deployment["metadata"]["name"]
        if scaled.count(name) > 1:
            yield f"{name}: is scaled twice"
        if name not in scaled and "replicas" not in deployment["spec"]:
            yield f"{name}: has neither a number of replicas nor somebody who scales it"
    for each in of_kind(documents, "ScaledObject"):
        yield from queue_faults(each, [queue.name for queue in QUEUES])


def queue_faults(scaled: Document, queues: list[str]) -> Iterator[str]:
    service = scaled["spec"]["scaleTargetRef"]["name"].removeprefix("macromdm-")
    for trigger in scaled["spec"]["triggers"]:
        asked: dict[str, Any] = trigger["metadata"]
        pattern = (
            asked["queueName"] if asked.get("useRegex") == "true" else re.escape(asked["queueName"])
        )
        found = {name for name in queues if re.search(pattern, name)}
        if found != {name for name in queues if name.split(".")[0] == service}:
            yield f"{service}: {asked['queueName']} does not name its queues"


def policy_faults(documents: list[Document]) -> Iterator[str]:
    """Everything is denied but what a policy names, and each policy is about somebody."""
    policies = [each["spec"] for each in of_kind(documents, "NetworkPolicy")]
    everybody = [*of_kind(documents, "StatefulSet"), *workloads(documents)]
    for workload in workloads(documents):
        denied = [
            each
            for each in policies
            if selects(each["podSelector"], labels(workload))
            and set(each["policyTypes"]) == {"Ingress", "Egress"}
            and not each.get("ingress")
            and not each.get("egress")
        ]
        if not denied:
            yield f"{workload['metadata']['name']}: nothing denies what no policy names"
    for document in of_kind(documents, "NetworkPolicy"):
        about = document["spec"]["podSelector"]
        made_by_operators = ("macromdm-rabbitmq-in", "macromdm-mongodb-in")
        if document["metadata"]["name"] not in made_by_operators and not any(
            selects(about, labels(each)) for each in everybody
        ):
            yield f"NetworkPolicy {document['metadata']['name']}: is about no pod"


def store_only(documents: list[Document]) -> Iterator[str]:
    """Check-in, which the public reaches, reaches nothing but names, the store and the broker."""
    checkin = named(documents, "Deployment", "macromdm-checkin")
    if checkin is None:
        return
    ports = {
        port["port"]
        for policy in of_kind(documents, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], labels(checkin))
        for rule in policy["spec"].get("egress", ())
        for port in rule.get("ports", ("any",))
    }
    if ports != {53, 27017, 5671, 5672}:
        yield f"macromdm-checkin: may reach the ports {sorted(map(str, ports))}"


CHECKS = (
    service_faults,
    pod_faults,
    drain_faults,
    scaling_faults,
    policy_faults,
    store_only,
)
