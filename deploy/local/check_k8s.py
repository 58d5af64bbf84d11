"""Do rendered Kubernetes manifests hold together?

Promises: the documents are what Kubernetes 1.34, or the operator, takes, as far as the schemas and
manifest_rules.py know; whatever a document names (a Secret and its key, a service, a port, a pod, a metric,
a queue, a setting) exists; each service has what lets it be rolled, drained and scaled, gets the secrets that
it reads and no other, and could start with its settings; the ingresses have the routes of the proxy.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import manifest_network  # noqa: E402
import manifest_pods  # noqa: E402
import manifest_routes  # noqa: E402
import manifest_rules  # noqa: E402
import manifest_scaling  # noqa: E402
import manifest_settings  # noqa: E402
from renders import K8S, Document  # noqa: E402

VERSION = "1.34"


def closed(schema: object) -> object:
    """The same, with objects that have no other properties than those listed."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        found = {"additionalProperties": False, "type": "object", **found}
    return found


@cache
def schemas() -> dict[str, object]:
    ours: dict[str, object] = yaml.safe_load((K8S / "schemas.yaml").read_text())
    return {kind: closed(spec) for kind, spec in ours.items()}


def of_its_type(error: ValidationError) -> list[ValidationError]:
    """Of an object that may be of several types (`oneOf`), what is wrong with it as the one that it says."""
    branches = error.context or ()
    others = {each.schema_path[0] for each in branches if "type" in each.path}
    return [each for each in branches if each.schema_path[0] not in others] or [error]


def schema_faults(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        yield from _schema_faults(json.dumps(document))


@cache
def _schema_faults(text: str) -> list[str]:
    """Of one document, as JSON. Kept, since overlays share documents, and each check reads a schema."""
    document: Document = json.loads(text)
    kind = f"{document['apiVersion']} {document['kind']}"
    name = f"{document['kind']} {document['metadata']['name']}"
    if kind in (ours := schemas()):
        errors = Draft202012Validator(ours[kind]).iter_errors(document["spec"])
        found = [each for error in errors for each in of_its_type(error)]
        return [f"{name}: {each.json_path}: {each.message}" for each in found]
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.ValidationError as exc:
        return [f"{name}: {'.'.join(map(str, exc.path))}: {exc.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{name}: there is no schema for {kind} (deploy/k8s/schemas.yaml)"]
    return []


CHECKS: tuple[Callable[[list[Document]], Iterator[str]], ...] = (
    *manifest_rules.CHECKS,
    *manifest_pods.CHECKS,
    *manifest_scaling.CHECKS,
    *manifest_network.CHECKS,
    *manifest_routes.CHECKS,
    *manifest_settings.CHECKS,
)


def faults(documents: list[Document]) -> Iterator[str]:
    """The other checks read what has the right types."""
    for first in (schema_faults, manifest_rules.quantity_faults):
        if wrong := list(first(documents)):
            yield from wrong
            return
    for check in CHECKS:
        yield from check(documents)
