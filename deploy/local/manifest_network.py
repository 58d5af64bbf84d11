"""Of rendered manifests: who may reach a pod, and what a pod may reach."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from manifest_pods import COMPONENT, deployments, labels, of_kind, selects, workloads
from manifest_settings import SECRETS_AT, mounted, secret_content
from renders import Document

DEFAULT_PORTS = {
    "mongodb": 27017,
    "mongodb+srv": 27017,
    "amqp": 5672,
    "amqps": 5671,
    "http": 80,
    "https": 443,
}
SCHEMES = {"MDM_MONGODB_URL": "mongodb", "MDM_AMQP_URL": "amqp", "MDM_WEBHOOK_URL": "https"}
"""Those of the URLs that an operator or External Secrets make."""
NAMES, APNS, RECEIVERS = 53, 443, 443


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


def ports_of_urls(documents: list[Document], workload: Document) -> dict[str, set[int]]:
    """The ports that the URLs among its secrets name, by setting."""
    found: dict[str, set[int]] = {}
    for path, (secret, key) in mounted(workload).items():
        if (setting := path.removeprefix(SECRETS_AT)) in SCHEMES:
            url = secret_content(documents, secret, key) or f"{SCHEMES[setting]}://host/"
            parts = urlsplit(url.strip())
            hosts = parts.netloc.rpartition("@")[2].split(",")
            ports = [urlsplit(f"//{host}").port or DEFAULT_PORTS[parts.scheme] for host in hosts]
            found[setting] = set(ports)
    return found


def rules_of(documents: list[Document], workload: Document, way: str) -> list[dict[str, Any]]:
    """The rules, `ingress` or `egress`, of all policies about it."""
    return [
        rule
        for policy in of_kind(documents, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], labels(workload))
        for rule in policy["spec"].get(way, ())
    ]


def ports_of(rules: list[dict[str, Any]]) -> set[int | str]:
    return {port["port"] for rule in rules for port in rule.get("ports", ({"port": "any"},))}


def peers_of(rules: list[dict[str, Any]], port: int | str) -> list[dict[str, Any]]:
    """Whom the rules let reach, or be reached at, this port."""
    some = [rule for rule in rules if port in ports_of([rule])]
    return [peer for rule in some for peer in rule.get("from", rule.get("to", ({"ipBlock": {}},)))]


def egress_faults(documents: list[Document]) -> Iterator[str]:
    """Each process reaches what its URLs name. Check-in, which the public reaches, reaches nothing else."""
    for workload in workloads(documents):
        name, component = workload["metadata"]["name"], labels(workload)[COMPONENT]
        open_ports = ports_of(rules_of(documents, workload, "egress"))
        wanted = {"name servers": {NAMES}, **ports_of_urls(documents, workload)}
        if component == "push":
            wanted["APNs"] = {APNS}
        if component == "webhook":
            wanted["receivers"] = {RECEIVERS}
        peers = peers_of(rules_of(documents, workload, "egress"), NAMES)
        if peers and not any("ipBlock" in each for each in peers):
            yield f"{name}: no NetworkPolicy lets it reach NodeLocal DNSCache"
        for what, ports in wanted.items():
            for port in sorted(ports - open_ports):
                yield f"{name}: no NetworkPolicy lets it reach port {port} ({what})"
        known = {DEFAULT_PORTS[scheme] for scheme in ("mongodb", "amqp", "amqps")}
        if component == "checkin" and (more := open_ports - known - set().union(*wanted.values())):
            yield f"{name}: may reach the ports {sorted(map(str, more))}"


def ingress_faults(documents: list[Document]) -> Iterator[str]:
    """Each service is reached at both its ports, and at no other, and by what is in another namespace."""
    for deployment in deployments(documents):
        rules = rules_of(documents, deployment, "ingress")
        if (found := ports_of(rules)) != {"http", "ops"}:
            yield f"{deployment['metadata']['name']}: is reached at the ports {sorted(map(str, found))}"
        if not all(rule.get("from") for rule in rules):
            yield f"{deployment['metadata']['name']}: is reached from everywhere"
        peers = peers_of(rules, "http")
        if of_kind(documents, "Ingress", "HTTPRoute") and not any(
            {"namespaceSelector", "ipBlock"} & each.keys() for each in peers
        ):
            yield f"{deployment['metadata']['name']}: no NetworkPolicy lets an ingress or Gateway in"


CHECKS = (policy_faults, egress_faults, ingress_faults)
