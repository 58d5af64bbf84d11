"""Do the deployment files hold together? For `make check`; needs no daemon and no cluster, but kustomize.

Promises: every document parses; whatever a file names (another file, a service, a port, a setting)
exists; the routes of the proxy and of the ingresses are the same table; a service has the same command,
ports and settings by docker-compose.yml as in Kubernetes. nginx is asked where it is installed.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import check_k8s  # noqa: E402
import manifest_pods  # noqa: E402
import parts  # noqa: E402
from go_tools import NoTool  # noqa: E402
from lock import PYTHON  # noqa: E402
from renders import NotRendered, renders  # noqa: E402

from shared.web.server.server import GRACE  # noqa: E402

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
    yield from image_faults(compose)
    yield from log_faults(compose)
    yield from key_faults(services["mongodb"]["entrypoint"])
    yield from example_faults((ROOT / ".env.example").read_text(), COMPOSE.read_text())


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
        if f"http://127.0.0.1:{port + 1000}/readyz" not in str(
            services[name]["healthcheck"]["test"]
        ):
            yield f"{COMPOSE.name}: {name}: its health check does not ask /readyz on {port + 1000}"
        grace = int(services[name]["stop_grace_period"].removesuffix("s"))
        if grace <= GRACE.total_seconds():
            yield f"{COMPOSE.name}: {name}: may be killed before it has ended"


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


def example_faults(example: str, compose: str) -> Iterator[str]:
    """.env.example has what the compose file needs, and no setting that does not exist."""
    given = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    yield from unknown(dict.fromkeys(sorted(given)), ".env.example")
    for name in sorted(set(re.findall(r"\$\{([A-Z_]+):\?", compose)) - given):
        yield f".env.example: has no {name}, which {COMPOSE.name} needs"


def image_faults(compose: Document) -> Iterator[str]:
    """Images have a version of their own, or a digest."""
    for name, service in compose["services"].items():
        if not manifest_pods.EXACT_IMAGE.search(service["image"]):
            yield f"{COMPOSE.name}: {name}: {service['image']} has no exact version"


def log_faults(compose: Document) -> Iterator[str]:
    for name, service in compose["services"].items():
        if "max-size" not in service.get("logging", {}).get("options", {}):
            yield f"{COMPOSE.name}: {name}: its log grows without end"


def key_faults(entrypoint: list[str]) -> Iterator[str]:
    """A container that starts again can write its file again, whoever owns it: not in a sticky folder."""
    if re.search(r">\s*/(var/)?tmp/", " ".join(entrypoint)):
        yield f"{COMPOSE.name}: mongodb: writes its key where a second start cannot"


def manifest_faults(compose: Document, deployments: list[Document]) -> Iterator[str]:
    """Each service has the command, ports and settings that it has in Kubernetes; further settings are in
    .env."""
    for deployment in deployments:
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        name = container["args"][0]
        service = compose["services"][name]
        environ = service["environment"]
        if service["command"] != container["args"]:
            yield f"{COMPOSE.name}: {name}: has another command than in deploy/k8s"
        for each in container["env"]:
            setting = each["name"].removesuffix("_FILE")
            if setting not in environ:
                yield f"{COMPOSE.name}: {name}: has no {setting}, which it has in deploy/k8s"
            elif setting == each["name"] and environ[setting] != each["value"]:
                yield f"{COMPOSE.name}: {name}: {setting} is {each['value']} in deploy/k8s"
        if service.get("env_file") != ".env":
            yield f"{COMPOSE.name}: {name}: does not get the settings in .env"


def version_faults(compose: Document, documents: list[Document]) -> Iterator[str]:
    """MongoDB and RabbitMQ are of the same versions by Compose as in a cluster."""
    of_compose = {name: compose["services"][name]["image"] for name in ("mongodb", "rabbitmq")}
    for each in manifest_pods.of_kind(documents, "StatefulSet"):
        [container] = each["spec"]["template"]["spec"]["containers"]
        if container["image"] != of_compose[container["name"]]:
            yield f"{COMPOSE.name}: has {of_compose[container['name']]}, not {container['image']}"
    for each in manifest_pods.of_kind(documents, "MongoDBCommunity"):
        if f"mongo:{each['spec']['version']}" != of_compose["mongodb"]:
            yield f"{COMPOSE.name}: has {of_compose['mongodb']}, not {each['spec']['version']}"
    for each in manifest_pods.of_kind(documents, "RabbitmqCluster"):
        if each["spec"]["image"].removesuffix("-management") != of_compose["rabbitmq"]:
            yield f"{COMPOSE.name}: has {of_compose['rabbitmq']}, not {each['spec']['image']}"


def kubernetes_faults() -> Iterator[str]:
    """A fault of the base is told once, and not again for all that is built on it."""
    told: set[str] = set()
    compose: Document = yaml.safe_load(COMPOSE.read_text())
    try:
        for name, documents in renders():
            if name == "base":
                yield from manifest_faults(compose, manifest_pods.deployments(documents))
            if name in ("development", "all components"):
                yield from version_faults(compose, documents)
            found = set(check_k8s.faults(documents)) - told
            told |= found
            yield from (f"deploy/k8s: {name}: {fault}" for fault in sorted(found))
    except (NotRendered, NoTool) as exc:
        yield f"deploy/k8s: {exc}"


INSTRUCTIONS = {"FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
INSTRUCTIONS |= {"ARG", "LABEL"}
LABELS = ("title", "description", "version", "licenses", "revision", "source")


def dockerfile_faults() -> Iterator[str]:
    text = (ROOT / "Dockerfile").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    yield from (f"Dockerfile: {fault}" for fault in image_file_faults(text, version))


def image_file_faults(text: str, version: str) -> Iterator[str]:
    """Of the text of a Dockerfile, for this version of ours."""
    joined = text.replace("\\\n", " ")
    lines = [line.split() for line in joined.splitlines() if line and not line.startswith("#")]
    for words in lines:
        if words[0] not in INSTRUCTIONS:
            yield f"{words[0]} is no instruction"
        if words[0] == "COPY" and not words[1].startswith("--from"):
            away = (source for source in words[1:-1] if not (ROOT / source).exists())
            yield from (f"copies {source}, which does not exist" for source in away)
    stages = [words[1] for words in lines if words[0] == "FROM"]
    if len(set(stages)) != 1 or not re.match(rf"python:{PYTHON}\.\d+-slim-", stages[-1]):
        yield f"its stages are {stages}, and the locks are for Python {PYTHON}"
    yield from last_stage_faults(joined.rpartition("FROM ")[2], version)
    for line in re.findall(r"pip[^&]* install [^&]*\.lock", joined):
        if "--require-hashes" not in line or "--only-binary :all:" not in line:
            yield "installs packages without their hashes, or compiles them"


def last_stage_faults(stage: str, version: str) -> Iterator[str]:
    if not re.search(r"^USER (?!root|0)\S+", stage, re.MULTILINE):
        yield "the last stage runs as root"
    for uid, gid in re.findall(r"^USER (\d+):(\d+)$", stage, re.MULTILINE):
        if f"groupadd --gid {gid} " not in stage or f"--uid {uid} --gid {gid} " not in stage:
            yield f"makes no user {uid} of the group {gid}"
    if re.search(r"apt-get|\bgcc\b|pip install", stage):
        yield "the last stage installs something"
    for label in LABELS:
        if f"org.opencontainers.image.{label}=" not in stage:
            yield f"has no label {label}"
    if f'image.version="{version}"' not in stage:
        yield f"its label is of another version than {version}"


def told_by(name: str, *command: str) -> Iterator[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        yield f"{name}: {(done.stderr or done.stdout).strip()}"


def installed_tools() -> Iterator[str]:
    if Path(parts.NGINX).exists():
        with tempfile.TemporaryDirectory() as folder:
            proxy = parts.proxy(Path(folder), "127.0.0.1:8080")
            yield from told_by("nginx", *proxy.command, "-t")


def main() -> int:
    checks = (compose_faults, kubernetes_faults, dockerfile_faults, installed_tools)
    faults = [fault for check in checks for fault in check()]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
