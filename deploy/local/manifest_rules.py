"""Of rendered manifests: what the API server or an operator refuses, though it has the right types."""

from collections.abc import Iterator
from typing import Any

from manifest_pods import labels, of_kind, selects, workloads
from manifest_settings import QUANTITY, bytes_of
from renders import Document

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
FROM_ONE = ("timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
VOLUMES |= {"projected", "secret"}
"""Those that the Pod Security Standard `restricted` allows."""
MOST_MODE, NO_MODE = 0o440, 0o644
TARGETS = {
    "Utilization": "averageUtilization",
    "AverageValue": "averageValue",
    "Value": "value",
}


def quantities(value: object) -> Iterator[str]:
    """The amounts of all requests and limits in it."""
    if isinstance(value, list):
        for each in value:
            yield from quantities(each)
    for key, each in value.items() if isinstance(value, dict) else ():
        if key in ("requests", "limits") and isinstance(each, dict):
            yield from map(str, each.values())
        else:
            yield from quantities(each)


def quantity_faults(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        for each in quantities(document.get("spec")):
            if not QUANTITY.fullmatch(each):
                yield f"{document['kind']} {document['metadata']['name']}: {each} is no quantity"


def workload_faults(documents: list[Document]) -> Iterator[str]:
    for each in of_kind(documents, "Deployment", "StatefulSet", "Job"):
        pod = each["spec"]["template"]["spec"]
        found = [*template_faults(each), *strategy_faults(each["spec"]), *pod_faults(pod)]
        claims = [claim["metadata"] for claim in each["spec"].get("volumeClaimTemplates", ())]
        volumes = {volume["name"] for volume in [*pod.get("volumes", ()), *claims]}
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            found += [*mount_faults(container, volumes), *container_faults(container)]
        yield from (f"{each['metadata']['name']}: {fault}" for fault in found)


def template_faults(of: Document) -> Iterator[str]:
    if of["kind"] == "Job":
        if of["spec"]["template"]["spec"].get("restartPolicy") not in ("OnFailure", "Never"):
            yield "a Job's restartPolicy is OnFailure or Never"
    elif not selects(of["spec"]["selector"], labels(of)):
        yield "does not select its own pods"


def strategy_faults(spec: Document) -> Iterator[str]:
    strategy = spec.get("strategy", {})
    rolling = strategy.get("rollingUpdate", {})
    if {rolling.get("maxSurge"), rolling.get("maxUnavailable")} <= {0, "0%"}:
        yield "neither a new pod may be added nor an old one end"
    if rolling and strategy.get("type", "RollingUpdate") != "RollingUpdate":
        yield "has rollingUpdate, and another type"


def pod_faults(pod: Document) -> Iterator[str]:
    for shared in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(shared):
            yield f"{shared} is not allowed"
    for volume in pod.get("volumes", ()):
        for kind in sorted(volume.keys() - VOLUMES - {"name"}):
            yield f"a volume of the kind {kind} is not allowed"
    for spread in pod.get("topologySpreadConstraints", ()):
        selector = spread.get("labelSelector", {})
        keys = {each["key"] for each in selector.get("matchExpressions", ())}
        keys |= selector.get("matchLabels", {}).keys()
        for key in sorted(keys & set(spread.get("matchLabelKeys", ()))):
            yield f"{key} is in matchLabelKeys and in the labelSelector"


def mount_faults(container: dict[str, Any], volumes: set[str]) -> Iterator[str]:
    mounts = container.get("volumeMounts", [])
    for name in sorted({each["name"] for each in mounts} - volumes):
        yield f"there is no volume {name}"
    if len({each["mountPath"] for each in mounts}) < len(mounts):
        yield "two volumes have one mountPath"


def container_faults(container: dict[str, Any]) -> Iterator[str]:
    for probe in PROBES:
        given = container.get(probe, {})
        for field in FROM_ONE:
            if given.get(field, 1) < 1:
                yield f"the {field} of the {probe} is 1 at least"
        if probe != "readinessProbe" and given.get("successThreshold", 1) > 1:
            yield f"the successThreshold of the {probe} is 1"
    resources = container.get("resources", {})
    for kind, most in resources.get("limits", {}).items():
        asked = resources.get("requests", {}).get(kind, "0")
        if bytes_of(str(asked)) > bytes_of(str(most)):
            yield f"asks for more {kind} than its limit"


def mode_faults(documents: list[Document]) -> Iterator[str]:
    """Files of secrets are for their owner and group: 440 without a leading 0 is another mode, 0670."""
    for each in workloads(documents):
        for volume in each["spec"]["template"]["spec"].get("volumes", ()):
            source = volume.get("projected", volume.get("secret", {"defaultMode": MOST_MODE}))
            if (mode := source.get("defaultMode", NO_MODE)) & ~MOST_MODE:
                yield f"{each['metadata']['name']}: {volume['name']} has the mode {mode:04o}"


def budget_faults(documents: list[Document]) -> Iterator[str]:
    for each in of_kind(documents, "PodDisruptionBudget"):
        if {"minAvailable", "maxUnavailable"} <= each["spec"].keys():
            yield f"{each['metadata']['name']}: has minAvailable and maxUnavailable"


def scaler_faults(documents: list[Document]) -> Iterator[str]:
    for each in of_kind(documents, "HorizontalPodAutoscaler"):
        for metric in each["spec"].get("metrics", ()):
            [source] = [value for value in metric.values() if isinstance(value, dict)]
            if TARGETS.get(source["target"]["type"]) not in source["target"]:
                yield f"{each['metadata']['name']}: a target has no value"
    for each in of_kind(documents, "ScaledObject"):
        kinds = {
            (trigger["type"], trigger.get("metricType", "AverageValue"))
            for trigger in each["spec"]["triggers"]
        }
        counted = {kind for kind, metric in kinds if metric == "AverageValue"} - {"cpu", "memory"}
        if "fallback" in each["spec"] and not counted:
            yield f"{each['metadata']['name']}: no trigger of it can have a fallback"


def twice_faults(documents: list[Document]) -> Iterator[str]:
    seen = set()
    for each in documents:
        meta = each["metadata"]
        key = each["apiVersion"], each["kind"], meta.get("namespace", ""), meta["name"]
        if key in seen:
            yield f"{each['kind']} {meta['name']}: is there twice"
        seen.add(key)


CHECKS = (workload_faults, mode_faults, budget_faults, scaler_faults, twice_faults)
