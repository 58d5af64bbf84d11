"""Do the deployment files hold together? For `make check`; needs no daemon and no cluster.

Promises: every document parses; whatever a file names (another file, a service, a port, a setting)
exists; the routes of the proxy and of the ingress are the same table; what is installed here
(nginx, kubectl) is asked too.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import parts
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
BASE = ROOT / "deploy" / "k8s" / "base"
COMPOSE = ROOT / "docker-compose.yml"

Document = dict[str, Any]


def known_settings() -> set[str]:
    from shared.settings.load import SERVICES

    plain = {f"MDM_{field.upper()}" for each in SERVICES for field in each.model_fields}
    return plain | {f"{name}_FILE" for name in plain}


def unknown(names: object, where: str) -> Iterator[str]:
    known = known_settings()
    for name in names if isinstance(names, dict) else ():
        if str(name).startswith("MDM_") and name not in known:
            yield f"{where}: {name} is no setting"


def compose_faults() -> Iterator[str]:
    compose: Document = yaml.safe_load(COMPOSE.read_text())
    services: Document = compose["services"]
    for missing in {"mongodb", "rabbitmq", "proxy", *parts.SERVICES} - services.keys():
        yield f"{COMPOSE.name}: there is no service {missing}"
    for name, service in services.items():
        where = f"{COMPOSE.name}: {name}"
        if "healthcheck" not in service:
            yield f"{where}: has no health check"
        for other in service.get("depends_on", {}):
            if other not in services:
                yield f"{where}: depends on {other}, which does not exist"
        yield from mount_faults(service, compose, where)
        yield from unknown(service.get("environment"), where)
    yield from template_faults(set(services["proxy"]["environment"]))
    yield from port_faults(services)
    yield from trust_faults(compose)


def trust_faults(compose: Document) -> Iterator[str]:
    """Each service trusts the proxy's one fixed address, which no other container can get."""
    network = compose["networks"]["default"]["ipam"]["config"][0]
    address = compose["services"]["proxy"]["networks"]["default"]["ipv4_address"]
    for name in parts.SERVICES:
        trusted = compose["services"][name]["environment"].get("MDM_TRUSTED_PROXIES")
        if trusted != address:
            yield f"{COMPOSE.name}: {name}: trusts {trusted}, and the proxy has {address}"
    if ip_address(address) not in ip_network(network["subnet"]):
        yield f"{COMPOSE.name}: proxy: {address} is not in the network"
    if ip_address(address) in ip_network(network["ip_range"]):
        yield f"{COMPOSE.name}: proxy: another container may get {address} first"


def port_faults(services: Document) -> Iterator[str]:
    for name, port in parts.SERVICES.items():
        if services["proxy"]["environment"][f"{name.upper()}_ADDRESS"] != f"{name}:{port}":
            yield f"{COMPOSE.name}: proxy: {name} listens on {port}"
        if services[name]["environment"]["MDM_HTTP"] != f":{port}":
            yield f"{COMPOSE.name}: {name}: does not listen on {port}"


def mount_faults(service: Document, compose: Document, where: str) -> Iterator[str]:
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0]
        if source.startswith("."):
            if not (ROOT / source).exists():
                yield f"{where}: mounts {source}, which does not exist"
        elif source not in compose["volumes"]:
            yield f"{where}: the volume {source} is not declared"


def template_faults(given: set[str]) -> Iterator[str]:
    for name in set(re.findall(r"\$\{([A-Z_]+)\}", parts.TEMPLATE.read_text())) - given:
        yield f"{parts.TEMPLATE.name}: nobody fills {name} in"


def manifests() -> Iterator[tuple[Path, Document]]:
    for path in sorted(BASE.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path, document


def kubernetes_faults() -> Iterator[str]:
    documents = list(manifests())
    of_kind: dict[str, dict[str, Document]] = {}
    for path, document in documents:
        if not {"apiVersion", "kind"} <= document.keys():
            yield f"{path.name}: a document without apiVersion or kind"
            continue
        name = document.get("metadata", {}).get("name", "")
        of_kind.setdefault(document["kind"], {})[name] = document
    resources = of_kind["Kustomization"][""]["resources"]
    for path in {path for path, _ in documents}:
        belongs = path.name in resources
        if not belongs and path.name != "kustomization.yaml" and ".example." not in path.name:
            yield f"kustomization.yaml: leaves {path.name} out"
    for resource in resources:
        if not (BASE / resource).is_file():
            yield f"kustomization.yaml: {resource} does not exist"
    for name in parts.SERVICES:
        yield from deployment_faults(name, of_kind)
        yield from outage_faults(name, of_kind)
    yield from unknown(of_kind["ConfigMap"]["macromdm"]["data"], "settings.yaml")
    yield from unknown(of_kind["Secret"]["macromdm"]["stringData"], "secret.example.yaml")
    yield from route_faults(of_kind)


def deployment_faults(name: str, of_kind: dict[str, dict[str, Document]]) -> Iterator[str]:
    deployment = of_kind["Deployment"].get(f"macromdm-{name}")
    service = of_kind["Service"].get(f"macromdm-{name}")
    if deployment is None or service is None:
        yield f"{name}.yaml: the Deployment or the Service is missing"
        return
    template = deployment["spec"]["template"]
    container = template["spec"]["containers"][0]
    labels = template["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if container["args"] != [name] or ports["http"] != parts.SERVICES[name]:
        yield f"{name}.yaml: runs another service, or on another port"
    for probe in ("livenessProbe", "readinessProbe"):
        if container.get(probe, {}).get("httpGet", {}).get("port") != "ops":
            yield f"{name}.yaml: the {probe} does not ask the ops port"
    if not deployment["spec"]["selector"]["matchLabels"].items() <= labels.items():
        yield f"{name}.yaml: the Deployment does not select its pods"
    if not service["spec"]["selector"].items() <= labels.items():
        yield f"{name}.yaml: the Service does not select the pods"
    yield from unknown({each["name"]: 0 for each in container["env"]}, f"{name}.yaml")


def outage_faults(name: str, of_kind: dict[str, dict[str, Document]]) -> Iterator[str]:
    """A drain or a lost node leaves a replica of each service."""
    deployment = of_kind["Deployment"][f"macromdm-{name}"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    budget = of_kind["PodDisruptionBudget"].get(f"macromdm-{name}", {}).get("spec", {})
    if budget.get("maxUnavailable") != 1 or budget["selector"]["matchLabels"] != labels:
        yield f"{name}.yaml: no PodDisruptionBudget keeps all replicas but one"
    spread = deployment["template"]["spec"].get("topologySpreadConstraints", ())
    over_nodes = [each for each in spread if each["topologyKey"] == "kubernetes.io/hostname"]
    if not any(each["labelSelector"]["matchLabels"] == labels for each in over_nodes):
        yield f"{name}.yaml: its replicas are not spread over nodes"
    if deployment["replicas"] < 2:
        yield f"{name}.yaml: has no second replica"


def route_faults(of_kind: dict[str, dict[str, Document]]) -> Iterator[str]:
    rules = of_kind["Ingress"]["macromdm"]["spec"]["rules"]
    ingress = {
        (path["path"], path["backend"]["service"]["name"].removeprefix("macromdm-"))
        for rule in rules
        for path in rule["http"]["paths"]
    }
    found = re.findall(
        r"location (?:= )?(/\S*) \{ proxy_pass http://(\w+);", parts.TEMPLATE.read_text()
    )
    proxy = {(path.rstrip("/") or "/", service) for path, service in found}
    for path, service in sorted(proxy ^ ingress):
        yield f"ingress.yaml and the proxy disagree about {path} ({service})"


def dockerfile_faults() -> Iterator[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    for words in lines:
        if words[0] not in known:
            yield f"Dockerfile: {words[0]} is no instruction"
        if words[0] == "COPY" and not words[1].startswith("--from"):
            yield from (
                f"Dockerfile: copies {source}, which does not exist"
                for source in words[1:-1]
                if not (ROOT / source).exists()
            )
    last_stage = lines[max(i for i, words in enumerate(lines) if words[0] == "FROM") :]
    if not any(words[0] == "USER" and words[1] not in {"root", "0"} for words in last_stage):
        yield "Dockerfile: the last stage runs as root"


def told_by(name: str, *command: str) -> Iterator[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        yield f"{name}: {(done.stderr or done.stdout).strip()}"


def installed_tools() -> Iterator[str]:
    if Path(parts.NGINX).exists():
        with tempfile.TemporaryDirectory() as folder:
            proxy = parts.proxy(Path(folder), "127.0.0.1:8080")
            yield from told_by("nginx", *proxy.command, "-t")
    if shutil.which("kubectl"):
        yield from told_by("kubectl kustomize", "kubectl", "kustomize", str(BASE))


def main() -> int:
    checks = (compose_faults, kubernetes_faults, dockerfile_faults, installed_tools)
    faults = [fault for check in checks for fault in check()]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
