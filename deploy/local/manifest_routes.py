"""Of rendered manifests: the routes of the ingresses or of the Gateway API, and what alerts look at."""

import re
from collections.abc import Iterator

import parts
from manifest_pods import deployments, labels, named, of_kind, selects
from prometheus_client.metrics import MetricWrapperBase
from renders import Document

from shared.settings.limits import LARGEST_BODY
from shared.telemetry.metrics import Metrics

LONGEST_WAIT = 120
"""The default of MDM_MAX_WAIT, in seconds."""
NGINX = "nginx.ingress.kubernetes.io/"
"""The annotations of ingress-nginx."""

Route = tuple[str, str]


def proxy_routes() -> set[Route]:
    """Path and service, as the proxy has them."""
    found = re.findall(
        r"location (?:= )?(/\S*) \{ proxy_pass http://\$(\w+);", parts.TEMPLATE.read_text()
    )
    return {(path.rstrip("/") or "/", service) for path, service in found}


def ingress_routes(ingress: Document) -> set[tuple[str, str, str | int]]:
    """Path, service and its port."""
    return {
        (
            path["path"],
            path["backend"]["service"]["name"],
            path["backend"]["service"]["port"]["name"],
        )
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }


def gateway_routes(route: Document) -> set[tuple[str, str, str | int]]:
    return {
        (match["path"]["value"], backend["name"], backend["port"])
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for backend in rule["backendRefs"]
    }


def route_faults(documents: list[Document]) -> Iterator[str]:
    """Devices and API clients together have the routes of the proxy, and neither has the other's."""
    ingresses, gateway = of_kind(documents, "Ingress"), of_kind(documents, "HTTPRoute")
    if not ingresses and not gateway:
        return
    if ingresses and gateway:
        yield "an Ingress stayed beside the routes of the Gateway API"
        return
    tables = {each["metadata"]["name"]: ingress_routes(each) for each in ingresses}
    tables |= {each["metadata"]["name"]: gateway_routes(each) for each in gateway}
    for name, table in tables.items():
        is_for_devices = name == "macromdm-devices"
        for path, target, port in table:
            service = named(documents, "Service", target)
            ports = [] if service is None else service["spec"]["ports"]
            if port not in [value for each in ports for value in (each["name"], each["port"])]:
                yield f"{name}: {path} leads to {target}:{port}, which does not exist"
            if (target == "macromdm-checkin") != is_for_devices:
                yield f"{name}: {path} is not for it"
    found = {
        (path, to.removeprefix("macromdm-")) for table in tables.values() for path, to, _ in table
    }
    for path, to in sorted(proxy_routes() ^ found):
        yield f"the ingresses and the proxy disagree about {path} ({to})"


def entrance_faults(documents: list[Document]) -> Iterator[str]:
    """The API has another entrance than devices, so that it is private."""
    entrances = [
        each["spec"].get("ingressClassName", "the default")
        for each in of_kind(documents, "Ingress")
    ]
    entrances += [
        f"{parent['namespace']}/{parent['name']}"
        for each in of_kind(documents, "HTTPRoute")
        for parent in each["spec"]["parentRefs"]
    ]
    if len(set(entrances)) != len(entrances):
        yield f"devices and the API come in by the same entrance: {entrances[0]}"


def limit_faults(documents: list[Document]) -> Iterator[str]:
    """Bodies of the largest size pass ingress-nginx, and calls that wait."""
    prefix = f"{NGINX}proxy-"
    for ingress in of_kind(documents, "Ingress"):
        name, notes = ingress["metadata"]["name"], ingress["metadata"].get("annotations", {})
        if not notes:
            continue
        size = re.fullmatch(r"(\d+)m", notes.get(f"{prefix}body-size", ""))
        if size is None or int(size[1]) * 1024**2 <= LARGEST_BODY:
            yield f"{name}: lets no body of the largest size pass"
        if int(notes.get(f"{prefix}read-timeout", "60")) <= LONGEST_WAIT:
            yield f"{name}: does not wait as long as a call may"
    for route in of_kind(documents, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            given = int(rule.get("timeouts", {}).get("request", "0s").removesuffix("s"))
            if route["metadata"]["name"] == "macromdm-api" and given <= LONGEST_WAIT:
                yield "macromdm-api: does not wait as long as a call may"


def header_faults(documents: list[Document]) -> Iterator[str]:
    """A header that proves a device is written by ingress-nginx, which passes on all others from outside."""
    ingress = named(documents, "Ingress", "macromdm-devices")
    notes = {} if ingress is None else ingress["metadata"].get("annotations", {})
    is_written = notes.get(f"{NGINX}auth-tls-pass-certificate-to-upstream") == "true"
    for settings in of_kind(documents, "ConfigMap") if any(NGINX in each for each in notes) else ():
        header = settings["data"].get("MDM_CLIENT_CERT_HEADER")
        if header and not (header.lower() == "ssl-client-cert" and is_written):
            yield f"MDM_CLIENT_CERT_HEADER is {header}, which ingress-nginx passes on from outside"


OF_PROMETHEUS = {"namespace", "pod", "app_kubernetes_io_component"}
"""Labels that every series of ours gets, by the PodMonitor."""


def metric_labels() -> dict[str, set[str]]:
    """Names of series, each with its labels."""
    made = [each for each in vars(Metrics()).values() if isinstance(each, MetricWrapperBase)]
    return {
        each._name + end: set(each._labelnames)
        for each in made
        for end in ("", "_total", "_bucket", "_count", "_sum")
    }


def label_values() -> dict[tuple[str, str], set[str]]:
    """Of a counter and its one label, those that it may have."""
    made = [each for each in vars(Metrics()).values() if isinstance(each, MetricWrapperBase)]
    return {
        (f"{each._name}_total", each._labelnames[0]): {values[0] for values in each._metrics}
        for each in made
        if len(each._labelnames) == 1
    }


def matcher_faults(rule: Document) -> Iterator[str]:
    """Its matchers name values that exist: of a label of ours, and of a service."""
    known = label_values()
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", rule["expr"]):
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            values = known.get((metric, label), set())
            if label == "app_kubernetes_io_component":
                values = set(parts.SERVICES)
            if label != "job" and not set(value.split("|")) <= values:
                yield f"{rule['alert']}: {metric} has no {label} {value}"


def absence_faults(rule: Document) -> Iterator[str]:
    """A service that is gone altogether is down, too."""
    if rule["alert"] == "MacroMDMServiceDown":
        for name in parts.SERVICES:
            if not re.search(rf'absent\(up\{{[^}}]*component="{name}"', rule["expr"]):
                yield f"{rule['alert']}: does not see that there is no {name}"


def alert_faults(documents: list[Document]) -> Iterator[str]:
    """Alerts look at metrics and labels that exist."""
    known = metric_labels()
    for rule_document in of_kind(documents, "PrometheusRule"):
        for group in rule_document["spec"]["groups"]:
            for rule in group["rules"]:
                yield from (*matcher_faults(rule), *absence_faults(rule))
                metrics = re.findall(r"\bmacromdm_\w+", rule["expr"])
                for metric in metrics:
                    if metric not in known:
                        yield f"{rule['alert']}: there is no metric {metric}"
                own = {label for each in metrics for label in known.get(each, ())}
                grouped = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
                for label in set(re.findall(r"\w+", " ".join(grouped))) - own - OF_PROMETHEUS:
                    yield f"{rule['alert']}: no metric has the label {label}"


def monitor_faults(documents: list[Document]) -> Iterator[str]:
    for monitor in of_kind(documents, "PodMonitor"):
        ports = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
        if ports != {"ops"}:
            yield "PodMonitor: asks another port than ops"
        for each in deployments(documents):
            if not selects(monitor["spec"]["selector"], labels(each)):
                yield f"PodMonitor: does not ask {each['metadata']['name']}"


def tls_faults(documents: list[Document]) -> Iterator[str]:
    """Where certificates are made, each host of an ingress has one."""
    made = {
        (each["spec"]["secretName"], host)
        for each in of_kind(documents, "Certificate")
        for host in each["spec"]["dnsNames"]
    }
    for ingress in of_kind(documents, "Ingress") if made else ():
        for tls in ingress["spec"]["tls"]:
            for host in tls["hosts"]:
                if (tls["secretName"], host) not in made:
                    yield f"{ingress['metadata']['name']}: no certificate is made for {host}"


def grant_faults(documents: list[Document]) -> Iterator[str]:
    """A Gateway reads the certificates, which are Secrets of another namespace than its own."""
    granted = {
        (source["namespace"], target["name"])
        for grant in of_kind(documents, "ReferenceGrant")
        for source in grant["spec"]["from"]
        for target in grant["spec"]["to"]
    }
    for route in of_kind(documents, "HTTPRoute"):
        secret = f"{route['metadata']['name']}-tls"
        for parent in route["spec"]["parentRefs"]:
            if (parent["namespace"], secret) not in granted:
                yield f"no ReferenceGrant lets the namespace {parent['namespace']} read {secret}"


CHECKS = (
    route_faults,
    entrance_faults,
    limit_faults,
    header_faults,
    alert_faults,
    monitor_faults,
    tls_faults,
    grant_faults,
)
