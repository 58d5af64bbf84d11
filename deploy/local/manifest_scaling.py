"""Of rendered manifests: the number of replicas, and who changes it."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from manifest_pods import deployments, named, of_kind
from manifest_settings import secret_content
from renders import Document

from shared.domain.enrollment import PARTITIONS
from shared.messaging.topology import QUEUES

ENTRANCES = ("Ingress", "HTTPRoute")


def scaling_faults(documents: list[Document]) -> Iterator[str]:
    """Who scales names a Deployment, which then has no number of its own. Where clients come in, every
    service has two replicas at least."""
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
        if of_kind(documents, *ENTRANCES) and deployment["spec"].get("replicas", 2) < 2:
            yield f"{name}: has one replica, and its clients wait while that one is replaced"


def bound_faults(documents: list[Document]) -> Iterator[str]:
    """Who scales keeps two replicas, and no more than there is work for."""
    for each in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"):
        spec, name = each["spec"], each["spec"]["scaleTargetRef"]["name"]
        least = spec.get("minReplicas", spec.get("minReplicaCount", 1))
        most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
        if not 2 <= least <= most:
            yield f"{name}: is scaled from {least} to {most} replicas"
        if name == "macromdm-webhook" and most > PARTITIONS:
            yield f"{name}: more than {PARTITIONS} replicas have nothing to do"
        if "fallback" in spec and spec["fallback"].get("behavior") != "currentReplicasIfHigher":
            yield f"{name}: loses replicas while KEDA does not reach RabbitMQ"
        if each["kind"] == "ScaledObject":
            yield from trigger_faults(documents, each, [queue.name for queue in QUEUES])


def trigger_faults(documents: list[Document], scaled: Document, queues: list[str]) -> Iterator[str]:
    service = scaled["spec"]["scaleTargetRef"]["name"].removeprefix("macromdm-")
    for trigger in scaled["spec"]["triggers"]:
        if trigger["type"] != "rabbitmq":
            continue
        proof = named(documents, "TriggerAuthentication", trigger["authenticationRef"]["name"])
        if proof is None:
            yield f"{service}: {trigger['authenticationRef']['name']} does not exist"
        else:
            yield from (f"{service}: {fault}" for fault in host_faults(documents, trigger, proof))
        asked: dict[str, Any] = trigger["metadata"]
        pattern = (
            asked["queueName"] if asked.get("useRegex") == "true" else re.escape(asked["queueName"])
        )
        found = {name for name in queues if re.search(pattern, name)}
        if found != {name for name in queues if name.split(".")[0] == service}:
            yield f"{service}: {asked['queueName']} does not name its queues"


def host_faults(documents: list[Document], trigger: Document, proof: Document) -> Iterator[str]:
    """KEDA, in a namespace of its own, is told where RabbitMQ is."""
    given = {each["parameter"]: each for each in proof["spec"]["secretTargetRef"]}
    if "host" in trigger["metadata"]:
        url = trigger["metadata"]["host"]
    elif "host" in given:
        url = secret_content(documents, given["host"]["name"], given["host"]["key"])
    else:
        yield "KEDA is not told where RabbitMQ is"
        return
    if url is not None and "." not in (host := urlsplit(url.strip()).hostname or ""):
        yield f"KEDA finds no {host} from its own namespace"


MEMBERSHIP = "quorum_queue.continuous_membership_reconciliation."


def member_faults(documents: list[Document]) -> Iterator[str]:
    """Queues get a member on each node, though the services may declare them when only one node is there."""
    for cluster in of_kind(documents, "RabbitmqCluster"):
        lines = re.sub(r" *= *", "=", cluster["spec"]["rabbitmq"]["additionalConfig"]).split()
        size = f"target_group_size={cluster['spec']['replicas']}"
        if not {MEMBERSHIP + "enabled=true", MEMBERSHIP + size} <= set(lines):
            yield f"{cluster['metadata']['name']}: a queue may keep one member, of three nodes"


CHECKS = (scaling_faults, bound_faults, member_faults)
