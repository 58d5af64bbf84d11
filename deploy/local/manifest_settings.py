"""Of rendered manifests: settings and secrets. Each service gets what it reads, and could start with it."""

import base64
import re
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from manifest_pods import COMPONENT, labels, named, of_kind, workloads
from renders import Document

from shared.domain.enrollment import PARTITIONS
from shared.domain.errors import Misconfigured
from shared.settings import AllSettings, ServiceSettings
from shared.settings.classes import WebhookSettings
from shared.settings.load import SERVICES, is_secret, load, variable

CLASSES = {cls.service: cls for cls in SERVICES}
SECRETS_AT = "/secrets/"
PROCESS = 130 << 20
"""The most that a service was measured with beside its bodies (docs/performance.md)."""


def secret_names() -> set[str]:
    return {
        variable(field)
        for field, declared in AllSettings.model_fields.items()
        if is_secret(declared)
    }


def read_by(workload: Document) -> set[str]:
    """The settings that a process reads; the Job's command takes those of all services."""
    cls = CLASSES.get(labels(workload)[COMPONENT], AllSettings)
    return {variable(field) for field in cls.model_fields}


def given(documents: list[Document], workload: Document) -> dict[str, str]:
    """The environment of a container."""
    [container] = workload["spec"]["template"]["spec"]["containers"]
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        settings = named(documents, "ConfigMap", source["configMapRef"]["name"])
        found |= {} if settings is None else settings["data"]
    return found | {each["name"]: each["value"] for each in container["env"]}


def mounted(workload: Document) -> dict[str, tuple[str, str]]:
    """Paths in /secrets, each with its Secret and key."""
    return {
        SECRETS_AT + item["path"]: (source["secret"]["name"], item["key"])
        for volume in workload["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "secrets"
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }


def secret_content(documents: list[Document], name: str, key: str) -> str | None:
    secret = named(documents, "Secret", name)
    if secret is None or key not in secret.get("data", {}):
        return None
    return base64.b64decode(secret["data"][key]).decode()


def setting_faults(documents: list[Document]) -> Iterator[str]:
    """What a container is told exists, and no secret is in its environment."""
    known = {variable(field) for cls in SERVICES for field in cls.model_fields}
    secret = secret_names()
    for workload in workloads(documents):
        name, files = workload["metadata"]["name"], mounted(workload)
        for setting, value in given(documents, workload).items():
            plain = setting.removesuffix("_FILE")
            if setting in secret:
                yield f"{name}: {setting} is a secret and not a file"
            elif setting not in known and plain not in secret:
                yield f"{name}: {setting} is no setting"
            elif plain in secret and value not in files:
                yield f"{name}: {setting} names {value}, which is not mounted"


OF_URLS = {"cafile", "certfile", "keyfile", "tlscafile", "tlscertificatekeyfile", "tlscrlfile"}
"""The parameters of URLs that name files."""


def files(documents: list[Document], workload: Document) -> Iterator[tuple[str, str]]:
    """The files of certificates that its settings, and the URLs among its secrets, name."""
    for setting, value in given(documents, workload).items():
        if value.startswith(("/certificates/", "/trust/")) and setting in read_by(workload):
            yield setting, value
    for path, (secret, key) in mounted(workload).items():
        url = secret_content(documents, secret, key) or ""
        for name, value in parse_qsl(urlsplit(url.strip()).query) if "://" in url else ():
            if name.lower() in OF_URLS:
                yield f"{name} of {path.removeprefix(SECRETS_AT)}", value


def certificate_faults(documents: list[Document]) -> Iterator[str]:
    """A process has the folders of the files that it is to read."""
    for workload in workloads(documents):
        [container] = workload["spec"]["template"]["spec"]["containers"]
        folders = {each["mountPath"] for each in container["volumeMounts"]}
        for setting, file in files(documents, workload):
            if file.rpartition("/")[0] not in folders:
                yield f"{workload['metadata']['name']}: {setting} is {file}, which is not mounted"


def host_faults(documents: list[Document]) -> Iterator[str]:
    """Devices find MDM_SERVER_URL where the routes of check-in are."""
    hosts = {
        rule["host"]
        for each in of_kind(documents, "Ingress")
        if each["metadata"]["name"] == "macromdm-devices"
        for rule in each["spec"]["rules"]
    }
    for each in of_kind(documents, "HTTPRoute"):
        if each["metadata"]["name"] == "macromdm-devices":
            hosts |= set(each["spec"]["hostnames"])
    for settings in of_kind(documents, "ConfigMap") if hosts else ():
        url = settings["data"].get("MDM_SERVER_URL", "")
        if ":" in urlsplit(url).netloc:
            yield f"MDM_SERVER_URL is {url}: where an ingress takes its host from it, it has no port"
        elif urlsplit(url).hostname not in hosts:
            yield f"MDM_SERVER_URL is {url}, and devices are let in at {sorted(hosts)}"


def secret_faults(documents: list[Document]) -> Iterator[str]:
    """Each process gets the secrets that it reads, and no other."""
    for workload in workloads(documents):
        name, environ = workload["metadata"]["name"], given(documents, workload)
        [container] = workload["spec"]["template"]["spec"]["containers"]
        places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        if f"{places.get('secrets')}/" != SECRETS_AT:
            yield f"{name}: its secrets are not in {SECRETS_AT}"
        for path in mounted(workload):
            setting = path.removeprefix(SECRETS_AT)
            if setting not in read_by(workload):
                yield f"{name}: gets {setting}, which it does not read"
            if environ.get(f"{setting}_FILE") != path:
                yield f"{name}: gets {setting}, and nothing tells it so"


STAND_IN = {
    "MDM_MONGODB_URL": "mongodb://user:password@mongodb/macromdm",
    "MDM_AMQP_URL": "amqp://user:password@rabbitmq/",
    "MDM_API_KEY": "a" * 64,
    "MDM_SECRET_KEY": base64.b64encode(bytes(range(32))).decode(),
    "MDM_WEBHOOK_URL": "https://listener.example.org/",
    "MDM_ENROLL_TOKEN": "a-token",
}
"""For the secrets that an operator makes."""


def settings_of(documents: list[Document], workload: Document) -> ServiceSettings:
    """Those with which it starts. Raises Misconfigured."""
    environ = given(documents, workload)
    with tempfile.TemporaryDirectory() as folder:
        for path, (secret, key) in mounted(workload).items():
            setting = path.removeprefix(SECRETS_AT)
            content = secret_content(documents, secret, key) or STAND_IN[setting]
            Path(folder, setting).write_text(content)
            environ[f"{setting}_FILE"] = str(Path(folder, setting))
        return load(CLASSES.get(labels(workload)[COMPONENT], AllSettings), environ)


def start_faults(documents: list[Document]) -> Iterator[str]:
    """Each process could start with its settings and secrets, and its memory is enough for them."""
    for workload in workloads(documents):
        name = workload["metadata"]["name"]
        try:
            settings = settings_of(documents, workload)
        except Misconfigured as exc:
            yield f"{name}: cannot start: {exc}"
            continue
        [container] = workload["spec"]["template"]["spec"]["containers"]
        limit = int(bytes_of(container.get("resources", {}).get("limits", {}).get("memory", "0")))
        if workload["kind"] == "Deployment" and (needed := most_memory(settings)) > limit:
            yield f"{name}: may need {needed >> 20} MiB of memory, and its limit is {limit >> 20}"


def most_memory(settings: ServiceSettings) -> int:
    """What a service may come to: bodies are copied while they are read or sent, and each partition may be
    receiving one message."""
    most = PROCESS + 2 * settings.body_budget
    if isinstance(settings, WebhookSettings):
        most += 2 * settings.webhook_body_budget + PARTITIONS * settings.max_body
    return most


UNITS = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3)}
UNITS |= {unit: Decimal(1000**power) for power, unit in enumerate("MGTPE", 2)}
UNITS |= {f"{unit}i": Decimal(1024**power) for power, unit in enumerate("KMGTPE", 1)}
QUANTITY = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(UNITS)})")
"""Kubernetes' notation: `512Mi`, `500m`."""


def bytes_of(quantity: str) -> Decimal:
    """Of a quantity that keeps to QUANTITY: as many bytes, or cores."""
    found = QUANTITY.fullmatch(quantity)
    assert found, quantity
    return Decimal(found[1]) * UNITS[found[2]]


def required_faults(documents: list[Document]) -> Iterator[str]:
    """What a service needs in a cluster, though it starts without some of it."""
    always = ("MDM_MONGODB_URL", "MDM_SECRET_KEY", "MDM_SERVER_URL")
    for workload in workloads(documents):
        component, environ = labels(workload)[COMPONENT], given(documents, workload)
        needed = list(always)
        if component != "prepare":
            needed += ["MDM_AMQP_URL", "MDM_HTTP", "MDM_OPS_HTTP"]
        if component in ("commands", "push", "webhook"):
            needed.append("MDM_API_KEY")
        for setting in needed:
            if not environ.get(setting, environ.get(f"{setting}_FILE")):
                yield f"{workload['metadata']['name']}: has no {setting}"


OF_OPERATORS = {
    "macromdm-mongodb-url": "MongoDBCommunity",
    "macromdm-rabbitmq-default-user": "RabbitmqCluster",
}
"""Secrets that an operator makes, each with the kind of what it belongs to."""


def named_secrets(documents: list[Document]) -> Iterator[tuple[str, str, str]]:
    """Who names a Secret and a key of it, for those that no operator makes."""
    found = [
        (workload["metadata"]["name"], *each)
        for workload in workloads(documents)
        for each in mounted(workload).values()
    ]
    found += [
        (document["kind"], each["name"], each["key"])
        for document in of_kind(documents, "TriggerAuthentication")
        for each in document["spec"]["secretTargetRef"]
    ]
    for each in found:
        if not of_kind(documents, OF_OPERATORS.get(each[1], "")):
            yield each


def reference_faults(documents: list[Document]) -> Iterator[str]:
    """Where Secrets are made here, those that are named exist and have the key."""
    for where, secret, key in named_secrets(documents) if of_kind(documents, "Secret") else ():
        if secret_content(documents, secret, key) is None:
            yield f"{where}: {key} of the Secret {secret} does not exist"


def rolling_faults(documents: list[Document]) -> Iterator[str]:
    """A changed Secret or ConfigMap has another name, and what uses it is replaced."""
    for document in of_kind(documents, "Secret", "ConfigMap"):
        if not re.search(r"-[a-z0-9]{10}$", document["metadata"]["name"]):
            yield f"{document['kind']} {document['metadata']['name']}: a change of it rolls nothing"
    for workload in workloads(documents):
        for source in workload["spec"]["template"]["spec"]["containers"][0]["envFrom"]:
            if named(documents, "ConfigMap", source["configMapRef"]["name"]) is None:
                yield f"{workload['metadata']['name']}: its ConfigMap does not exist"


def external_faults(documents: list[Document]) -> Iterator[str]:
    """External Secrets make what is named."""
    external = of_kind(documents, "ExternalSecret")
    made = {
        (each["spec"]["target"]["name"], item["secretKey"])
        for each in external
        for item in each["spec"]["data"]
    }
    for where, secret, key in named_secrets(documents) if external else ():
        if (secret, key) not in made:
            yield f"{where}: no ExternalSecret makes {key} of {secret}"


CHECKS = (
    setting_faults,
    certificate_faults,
    host_faults,
    secret_faults,
    start_faults,
    required_faults,
    reference_faults,
    rolling_faults,
    external_faults,
)
