"""The checks of the deployment files can fail: each mistake in a manifest, the compose file, a lock or a
workflow is named."""

import base64
import copy
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "deploy" / "local"

Document = dict[str, Any]
Documents = list[Document]


@pytest.fixture(scope="module")
def local() -> Iterator[Callable[[str], Any]]:
    """Imports a module of deploy/local."""
    sys.path.insert(0, str(LOCAL))
    yield importlib.import_module
    sys.path.remove(str(LOCAL))


@pytest.fixture(scope="module")
def rendered(local: Callable[[str], Any]) -> dict[str, Documents]:
    return dict(local("renders").renders())


def find(documents: Documents, kind: str, name: str) -> Document:
    [found] = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].startswith(name)]
    return found


def deployment(documents: Documents, name: str = "checkin") -> Document:
    spec: Document = find(documents, "Deployment", f"macromdm-{name}")["spec"]
    return spec


def pod(documents: Documents, name: str = "checkin") -> Document:
    spec: Document = deployment(documents, name)["template"]["spec"]
    return spec


def container(documents: Documents, name: str = "checkin") -> Document:
    found: Document = pod(documents, name)["containers"][0]
    return found


def sources(documents: Documents, name: str = "checkin") -> list[Document]:
    [volume] = [each for each in pod(documents, name)["volumes"] if each["name"] == "secrets"]
    found: list[Document] = volume["projected"]["sources"]
    return found


def without(documents: Documents, kind: str, name: str) -> None:
    documents.remove(find(documents, kind, name))


def setting(name: str, value: str) -> Callable[[Documents], None]:
    return lambda documents: container(documents)["env"].append({"name": name, "value": value})


def first_path(documents: Documents, ingress: str) -> Document:
    found: Document = find(documents, "Ingress", ingress)["spec"]["rules"][0]["http"]["paths"][0]
    return found


def limits(documents: Documents, **changed: str) -> None:
    notes = find(documents, "Ingress", "macromdm-api")["metadata"]["annotations"]
    notes |= {f"nginx.ingress.kubernetes.io/proxy-{name}": v for name, v in changed.items()}


def trigger(documents: Documents) -> Document:
    found: Document = find(documents, "ScaledObject", "macromdm-webhook")["spec"]["triggers"][0]
    return found["metadata"]


def rule(documents: Documents, policy: str, way: str) -> Document:
    found: Document = find(documents, "NetworkPolicy", policy)["spec"][way][0]
    return found


def secret_text(documents: Documents, name: str, **content: str) -> None:
    data = find(documents, "Secret", f"macromdm-{name}")["data"]
    data |= {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}


def alert(documents: Documents) -> Document:
    found: Document = find(documents, "PrometheusRule", "macromdm")["spec"]["groups"][0]["rules"][1]
    return found


def other_secret(documents: Documents) -> None:
    sources(documents).append(
        {"secret": {"name": "x", "items": [{"key": "MDM_API_KEY", "path": "MDM_API_KEY"}]}}
    )


PRODUCTION: dict[str, tuple[Callable[[Documents], object], str]] = {
    # --- schemas
    "a misspelt field": (lambda d: pod(d).update(containres=[]), "containres"),
    "a wrong type": (lambda d: container(d).update(args="checkin"), "is not of type 'array'"),
    "an unknown kind": (
        lambda d: d.append({"apiVersion": "x/v1", "kind": "Y", "metadata": {"name": "z"}}),
        "no schema for x/v1 Y",
    ),
    "a text for an object": (
        lambda d: find(d, "PodDisruptionBudget", "macromdm-push").update(spec="x"),
        "PodDisruptionBudget macromdm-push: spec",
    ),
    "a misspelt field of an operator's": (
        lambda d: find(d, "ScaledObject", "macromdm-push")["spec"].update(minReplicas=2),
        "minReplicas",
    ),
    "a wrong type in one of several kinds": (
        lambda d: trigger(d).update(value=2000),
        "ScaledObject macromdm-webhook: $.triggers[0].metadata.value: 2000 is not of type 'string'",
    ),
    # --- what the API server refuses, though it has the right types
    "another selector": (
        lambda d: deployment(d)["selector"]["matchLabels"].update(x="y"),
        "macromdm-checkin: does not select its own pods",
    ),
    "pods without labels": (
        lambda d: deployment(d)["template"].pop("metadata"),
        "macromdm-checkin: does not select its own pods",
    ),
    "a rollout that cannot begin": (
        lambda d: deployment(d)["strategy"]["rollingUpdate"].update(maxSurge="0%"),
        "macromdm-checkin: neither a new pod may be added nor an old one end",
    ),
    "two strategies": (
        lambda d: deployment(d)["strategy"].update(type="Recreate"),
        "macromdm-checkin: has rollingUpdate, and another type",
    ),
    "a Job that never ends": (
        lambda d: find(d, "Job", "macromdm")["spec"]["template"]["spec"].pop("restartPolicy"),
        "macromdm-prepare: a Job's restartPolicy is",
    ),
    "two bounds of a budget": (
        lambda d: find(d, "PodDisruptionBudget", "macromdm-push")["spec"].update(minAvailable=1),
        "macromdm-push: has minAvailable and maxUnavailable",
    ),
    "a liveness of two answers": (
        lambda d: container(d)["livenessProbe"].update(successThreshold=2),
        "macromdm-checkin: the successThreshold of the livenessProbe is 1",
    ),
    "no time for an answer": (
        lambda d: container(d)["readinessProbe"].update(timeoutSeconds=0),
        "macromdm-checkin: the timeoutSeconds of the readinessProbe is 1 at least",
    ),
    "more memory than its limit": (
        lambda d: container(d)["resources"]["requests"].update(memory="0.6Gi"),
        "macromdm-checkin: asks for more memory than its limit",
    ),
    "a quantity of bytes": (
        lambda d: container(d)["resources"]["limits"].update(memory="1GB"),
        "Deployment macromdm-checkin: 1GB is no quantity",
    ),
    "a mount of nothing": (
        lambda d: container(d)["volumeMounts"].append({"name": "x", "mountPath": "/x"}),
        "macromdm-checkin: there is no volume x",
    ),
    "two mounts at one path": (
        lambda d: container(d)["volumeMounts"].append(
            {"name": "certificates", "mountPath": "/secrets"}
        ),
        "macromdm-checkin: two volumes have one mountPath",
    ),
    "a label that is matched twice": (
        lambda d: pod(d)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(
            {"pod-template-hash": "x"}
        ),
        "macromdm-checkin: pod-template-hash is in matchLabelKeys and in the labelSelector",
    ),
    "the node's network": (
        lambda d: pod(d).update(hostNetwork=True),
        "macromdm-checkin: hostNetwork is not allowed",
    ),
    "the node's files": (
        lambda d: pod(d)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "macromdm-checkin: a volume of the kind hostPath is not allowed",
    ),
    "a mode that is not octal": (
        lambda d: pod(d)["volumes"][0]["projected"].update(defaultMode=440),
        "macromdm-checkin: secrets has the mode 0670",
    ),
    "a target without a value": (
        lambda d: find(d, "HorizontalPodAutoscaler", "macromdm-checkin")["spec"]["metrics"][0][
            "resource"
        ].update(target={"type": "Utilization"}),
        "macromdm-checkin: a target has no value",
    ),
    "a fallback of CPU alone": (
        lambda d: find(d, "ScaledObject", "macromdm-webhook")["spec"]["triggers"].pop(0),
        "macromdm-webhook: no trigger of it can have a fallback",
    ),
    "a document twice": (
        lambda d: d.append(copy.deepcopy(find(d, "Service", "macromdm-push"))),
        "Service macromdm-push: is there twice",
    ),
    # --- pods
    "another command": (lambda d: container(d).update(args=["push"]), "runs another service"),
    "an address of its own": (
        lambda d: [
            each.update(value="127.0.0.1:8081")
            for each in container(d)["env"]
            if each["name"] == "MDM_HTTP"
        ],
        "checkin: does not listen on 8081 and 9081",
    ),
    "a lost ops port": (
        lambda d: find(d, "Service", "macromdm-push")["spec"]["ports"].pop(),
        "the Service has other ports",
    ),
    "a Service of nobody": (
        lambda d: find(d, "Service", "macromdm-push")["spec"]["selector"].update(x="y"),
        "the Service does not select the pods",
    ),
    "a writable root": (
        lambda d: container(d)["securityContext"].update(readOnlyRootFilesystem=False),
        "security context",
    ),
    "root": (lambda d: pod(d)["securityContext"].pop("runAsNonRoot"), "security context"),
    "files of another group": (lambda d: pod(d)["securityContext"].pop("fsGroup"), "context"),
    "a token": (lambda d: pod(d).pop("automountServiceAccountToken"), "gets a token"),
    "no limit": (lambda d: container(d)["resources"].pop("limits"), "no limit of memory"),
    "a budget that does not fit": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].update(MDM_WEBHOOK_BODY_BUDGET="512MiB"),
        "macromdm-webhook: may need 1730 MiB of memory, and its limit is 1024",
    ),
    "no startup": (lambda d: container(d).pop("startupProbe"), "the startupProbe does not ask"),
    "readiness by health": (
        lambda d: container(d)["readinessProbe"]["httpGet"].update(path="/healthz"),
        "the readinessProbe does not ask /readyz",
    ),
    "no pause": (lambda d: container(d).pop("lifecycle"), "before the endpoints forget it"),
    "a restart too soon": (
        lambda d: container(d)["livenessProbe"].update(failureThreshold=1),
        "the livenessProbe restarts it within 30 s",
    ),
    "another probe's port": (
        lambda d: container(d)["livenessProbe"]["httpGet"].update(port="opps"),
        "the livenessProbe does not ask /healthz on the ops port",
    ),
    "a gap in a rollout": (
        lambda d: find(d, "Deployment", "macromdm-push")["spec"]["strategy"][
            "rollingUpdate"
        ].update(maxUnavailable=1),
        "macromdm-push: an old pod ends before a new one is ready",
    ),
    "another command of the Job": (
        lambda d: find(d, "Job", "macromdm-prepare")["spec"]["template"]["spec"]["containers"][
            0
        ].update(args=["store", "prepar"]),
        "macromdm-prepare: does not prepare the store",
    ),
    "an image of its own": (
        lambda d: container(d).update(image="registry.example.org/macromdn:0.1.0"),
        "one is wanted, with a version",
    ),
    "a short grace": (
        lambda d: pod(d).update(terminationGracePeriodSeconds=19),
        "may be killed before its 19 s",
    ),
    "no zones": (lambda d: pod(d)["topologySpreadConstraints"].pop(), "not spread by topology"),
    "no account": (
        lambda d: without(d, "ServiceAccount", "macromdm-checkin"),
        "has no ServiceAccount",
    ),
    "no budget": (
        lambda d: without(d, "PodDisruptionBudget", "macromdm-checkin"),
        "no PodDisruptionBudget",
    ),
    "two masters of a number": (
        lambda d: find(d, "Deployment", "macromdm-checkin")["spec"].update(replicas=2),
        "has a number of replicas of its own",
    ),
    "no number": (
        lambda d: without(d, "HorizontalPodAutoscaler", "macromdm-checkin"),
        "neither a number of replicas nor",
    ),
    "one replica": (
        lambda d: find(d, "HorizontalPodAutoscaler", "macromdm-checkin")["spec"].update(
            minReplicas=1
        ),
        "macromdm-checkin: is scaled from 1 to 10 replicas",
    ),
    "more replicas than partitions": (
        lambda d: find(d, "ScaledObject", "macromdm-webhook")["spec"].update(maxReplicaCount=64),
        "more than 32 replicas have nothing to do",
    ),
    "a pause that is for no replicas": (
        lambda d: find(d, "ScaledObject", "macromdm-push")["spec"].update(cooldownPeriod=300),
        "'cooldownPeriod' was unexpected",
    ),
    "a fallback that ends replicas": (
        lambda d: find(d, "ScaledObject", "macromdm-push")["spec"]["fallback"].pop("behavior"),
        "macromdm-push: loses replicas while KEDA does not reach RabbitMQ",
    ),
    "somebody else's password": (
        lambda d: find(d, "ScaledObject", "macromdm-push")["spec"]["triggers"][0][
            "authenticationRef"
        ].update(name="rabbit"),
        "push: rabbit does not exist",
    ),
    "RabbitMQ in KEDA's namespace": (
        lambda d: secret_text(d, "rabbitmq", MANAGEMENT_URL="http://user:x@rabbitmq:15672/"),
        "push: KEDA finds no rabbitmq from its own namespace",
    ),
    "RabbitMQ nowhere": (
        lambda d: find(d, "TriggerAuthentication", "macromdm")["spec"]["secretTargetRef"][0].update(
            parameter="username"
        ),
        "webhook: KEDA is not told where RabbitMQ is",
    ),
    "a Secret of an operator that is not there": (
        lambda d: sources(d)[2]["secret"].update(name="macromdm-rabbitmq-default-user"),
        "macromdm-checkin: MDM_AMQP_URL of the Secret macromdm-rabbitmq-default-user",
    ),
    "a queue of nobody": (
        lambda d: trigger(d).update(queueName="hooks"),
        "does not name its queues",
    ),
    "another queue": (lambda d: trigger(d).update(queueName=".*"), "does not name its queues"),
    # --- network
    "nothing denied": (lambda d: without(d, "NetworkPolicy", "macromdm-deny"), "nothing denies"),
    "a policy of nobody": (
        lambda d: find(d, "NetworkPolicy", "macromdm-apns")["spec"]["podSelector"][
            "matchLabels"
        ].update(x="y"),
        "is about no pod",
    ),
    "a misspelt port in a policy": (
        lambda d: rule(d, "macromdm-devices", "ingress")["ports"][0].update(port="htpp"),
        "macromdm-checkin: is reached at the ports ['htpp', 'ops']",
    ),
    "a policy for everybody": (
        lambda d: rule(d, "macromdm-api", "ingress").pop("from"),
        "macromdm-commands: is reached from everywhere",
    ),
    "a database at another port": (
        lambda d: rule(d, "macromdm-mongodb", "egress")["ports"][0].update(port=27018),
        "macromdm-prepare: no NetworkPolicy lets it reach port 27017 (MDM_MONGODB_URL)",
    ),
    "a receiver at another port": (
        lambda d: secret_text(d, "webhook", MDM_WEBHOOK_URL="http://listener:8080/"),
        "macromdm-webhook: no NetworkPolicy lets it reach port 8080 (MDM_WEBHOOK_URL)",
    ),
    "no receivers": (
        lambda d: without(d, "NetworkPolicy", "macromdm-receivers"),
        "macromdm-webhook: no NetworkPolicy lets it reach port 443 (receivers)",
    ),
    "no names": (
        lambda d: without(d, "NetworkPolicy", "macromdm-names"),
        "macromdm-push: no NetworkPolicy lets it reach port 53 (name servers)",
    ),
    "no names on the node": (
        lambda d: rule(d, "macromdm-names", "egress")["to"].pop(),
        "macromdm-push: no NetworkPolicy lets it reach NodeLocal DNSCache",
    ),
    "check-in reaches out": (
        lambda d: find(d, "NetworkPolicy", "macromdm-apns")["spec"].update(
            podSelector={"matchLabels": {"app.kubernetes.io/name": "macromdm"}}
        ),
        "may reach the ports",
    ),
    # --- routes
    "a lost route": (
        lambda d: first_path(d, "macromdm-devices").update(path="/mdn"),
        "disagree about /mdm (checkin)",
    ),
    "the API at the public entrance": (
        lambda d: find(d, "Ingress", "macromdm-api")["spec"].update(ingressClassName="nginx"),
        "come in by the same entrance: nginx",
    ),
    "the API in public": (
        lambda d: first_path(d, "macromdm-devices")["backend"]["service"].update(
            name="macromdm-commands"
        ),
        "is not for it",
    ),
    "a port of nobody": (
        lambda d: first_path(d, "macromdm-api")["backend"]["service"]["port"].update(name="web"),
        "which does not exist",
    ),
    "small bodies": (lambda d: limits(d, **{"body-size": "8m"}), "no body of the largest size"),
    "short waits": (lambda d: limits(d, **{"read-timeout": "60"}), "as long as a call may"),
    "a header that anybody may send": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].update(
            MDM_CLIENT_CERT_HEADER="Client-Cert", MDM_TRUSTED_PROXIES="192.0.2.10"
        ),
        "MDM_CLIENT_CERT_HEADER is Client-Cert, which ingress-nginx passes on from outside",
    ),
    "a header that ingress-nginx does not write": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].update(
            MDM_CLIENT_CERT_HEADER="ssl-client-cert", MDM_TRUSTED_PROXIES="192.0.2.10"
        ),
        "MDM_CLIENT_CERT_HEADER is ssl-client-cert, which ingress-nginx passes on from outside",
    ),
    "no certificate": (
        lambda d: without(d, "Certificate", "macromdm-api"),
        "no certificate is made",
    ),
    # --- alerts
    "a metric of nobody": (
        lambda d: alert(d).update(expr="macromdm_store_down > 0"),
        "no metric macromdm_store_down",
    ),
    "a label of nobody": (
        lambda d: alert(d).update(expr="min by (tpoic) (macromdm_store_up) == 0"),
        "no metric has the label tpoic",
    ),
    "an outcome of nobody": (
        lambda d: alert(d).update(expr='macromdm_pushes_total{outcome=~"sent|fialed"} > 0'),
        "macromdm_pushes_total has no outcome sent|fialed",
    ),
    "a service whose end nobody sees": (
        lambda d: alert(d).update(alert="MacroMDMServiceDown", expr="sum(up) == 0"),
        "MacroMDMServiceDown: does not see that there is no webhook",
    ),
    "metrics of nobody": (
        lambda d: find(d, "PodMonitor", "macromdm")["spec"]["selector"]["matchLabels"].update(
            {"app.kubernetes.io/name": "macro"}
        ),
        "PodMonitor: does not ask macromdm-checkin",
    ),
    "another port of metrics": (
        lambda d: find(d, "PodMonitor", "macromdm")["spec"]["podMetricsEndpoints"][0].update(
            port="http"
        ),
        "another port than ops",
    ),
    # --- settings and secrets
    "an unknown setting": (setting("MDM_SERVER_ULR", "x"), "MDM_SERVER_ULR is no setting"),
    "a secret in clear": (setting("MDM_ENROLL_TOKEN", "x"), "is a secret and not a file"),
    "secrets elsewhere": (
        lambda d: [each.update(mountPath="/run/secrets") for each in container(d)["volumeMounts"]],
        "macromdm-checkin: its secrets are not in /secrets/",
    ),
    "a file of nobody": (setting("MDM_SCEP_CHALLENGE_FILE", "/secrets/x"), "is not mounted"),
    "a setting that cannot be": (setting("MDM_REENROLLMENT", "never"), "cannot start: MDM_REENR"),
    "a secret too many": (other_secret, "gets MDM_API_KEY, which it does not read"),
    "a certificate that is not mounted": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].update(
            MDM_TLS_CERT="/certificates/tls.pem"
        ),
        "macromdm-commands: MDM_TLS_CERT is /certificates/tls.pem, which is not mounted",
    ),
    "a CA of MongoDB that is not mounted": (
        lambda d: secret_text(
            d,
            "mongodb",
            MDM_MONGODB_URL="mongodb://mongodb/x?tls=true&tlsCAFile=/certificates/ca.pem",
        ),
        "macromdm-prepare: tlsCAFile of MDM_MONGODB_URL is /certificates/ca.pem, which is not mounted",
    ),
    "a CA of RabbitMQ that is not mounted": (
        lambda d: secret_text(
            d, "rabbitmq", MDM_AMQP_URL="amqps://rabbitmq/?cafile=/certificates/ca.pem"
        ),
        "macromdm-commands: cafile of MDM_AMQP_URL is /certificates/ca.pem, which is not mounted",
    ),
    "another host": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].update(MDM_SERVER_URL="https://mdm.x"),
        "MDM_SERVER_URL is https://mdm.x, and devices are let in at ['mdm.example.org']",
    ),
    "a host with a port": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].update(
            MDM_SERVER_URL="https://mdm.example.org:8443"
        ),
        "MDM_SERVER_URL is https://mdm.example.org:8443: where an ingress takes its host from it",
    ),
    "a required one less": (
        lambda d: find(d, "ConfigMap", "macromdm")["data"].pop("MDM_SERVER_URL"),
        "has no MDM_SERVER_URL",
    ),
    "a lost secret": (lambda d: without(d, "Secret", "macromdm-api"), "does not exist"),
    "a lost key": (
        lambda d: find(d, "Secret", "macromdm-rabbitmq")["data"].pop("MANAGEMENT_URL"),
        "TriggerAuthentication: MANAGEMENT_URL",
    ),
    "a fixed name": (
        lambda d: find(d, "ConfigMap", "macromdm")["metadata"].update(name="macromdm"),
        "a change of it rolls nothing",
    ),
}


@pytest.mark.parametrize(("mistake", "said"), PRODUCTION.values(), ids=PRODUCTION)
def test_a_mistake_in_a_manifest_is_named(
    rendered: dict[str, Documents],
    local: Callable[[str], Any],
    mistake: Callable[[Documents], object],
    said: str,
) -> None:
    documents = copy.deepcopy(rendered["production"])

    mistake(documents)

    assert any(said in fault for fault in local("check_k8s").faults(documents))


def test_a_header_that_ingress_nginx_writes_is_no_fault(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["production"])
    find(documents, "ConfigMap", "macromdm")["data"] |= {
        "MDM_CLIENT_CERT_HEADER": "SSL-Client-Cert",
        "MDM_TRUSTED_PROXIES": "192.0.2.10",
    }
    notes = find(documents, "Ingress", "macromdm-devices")["metadata"]["annotations"]
    notes["nginx.ingress.kubernetes.io/auth-tls-pass-certificate-to-upstream"] = "true"

    assert list(local("check_k8s").faults(documents)) == []


def test_every_pod_has_the_files_that_the_urls_name(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["production"])
    mongodb = "mongodb://mongodb/x?tls=true&tlsCAFile=/trust/ca.pem"
    secret_text(documents, "mongodb", MDM_MONGODB_URL=mongodb)
    secret_text(documents, "rabbitmq", MDM_AMQP_URL="amqps://rabbitmq/?cafile=/trust/ca.pem")

    assert list(local("check_k8s").faults(documents)) == []


def test_what_external_secrets_do_not_make_is_named(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["external-secrets"])
    without(documents, "ExternalSecret", "macromdm-api")

    faults = list(local("check_k8s").faults(documents))

    assert "macromdm-push: no ExternalSecret makes MDM_API_KEY of macromdm-api" in faults


def test_what_external_secrets_do_not_make_for_keda_is_named(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["external-secrets"] + rendered["keda"])

    faults = list(local("check_k8s").faults(documents))

    said = "TriggerAuthentication: no ExternalSecret makes MANAGEMENT_URL of macromdm-rabbitmq"
    assert said in faults


def test_a_gateway_that_cuts_calls_that_wait_is_named(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["gateway-api"])
    find(documents, "HTTPRoute", "macromdm-api")["spec"]["rules"][2]["timeouts"]["request"] = "60s"

    faults = list(local("check_k8s").faults(documents))

    assert faults == ["macromdm-api: does not wait as long as a call may"]


def test_a_gateway_that_reads_no_certificate_is_named(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["gateway-api"])
    route = find(documents, "HTTPRoute", "macromdm-devices")
    route["spec"]["parentRefs"][0]["namespace"] = "edge"

    faults = list(local("check_k8s").faults(documents))

    assert faults == ["no ReferenceGrant lets the namespace edge read macromdm-devices-tls"]


def test_the_pods_of_a_gateway_may_be_in_any_other_namespace(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["gateway-api"])
    let_in = rule(documents, "macromdm-devices", "ingress")["from"]
    let_in[0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] = "edge"
    assert list(local("check_k8s").faults(documents)) == []

    let_in[0] = {"podSelector": {}}

    said = "macromdm-checkin: no NetworkPolicy lets an ingress or Gateway in"
    assert list(local("check_k8s").faults(documents)) == [said]


ACCOUNT: dict[str, tuple[Callable[[Documents], object], str]] = {
    "no account": (
        lambda d: without(d, "ServiceAccount", "mongodb-database"),
        "there is no ServiceAccount mongodb-database",
    ),
    "no role": (
        lambda d: without(d, "Role", "mongodb-database"),
        "there is no Role mongodb-database",
    ),
    "another namespace": (
        lambda d: find(d, "RoleBinding", "mongodb")["subjects"][0].update(namespace="default"),
        "mongodb-database: binds an account of another namespace",
    ),
}


@pytest.mark.parametrize(("mistake", "said"), ACCOUNT.values(), ids=ACCOUNT)
def test_pods_of_mongodb_that_have_no_account_are_named(
    rendered: dict[str, Documents],
    local: Callable[[str], Any],
    mistake: Callable[[Documents], object],
    said: str,
) -> None:
    documents = copy.deepcopy(rendered["mongodb-operator"])

    mistake(documents)

    assert said in list(local("check_k8s").faults(documents))


@pytest.mark.parametrize("lost", ["enabled = true", "target_group_size = 3"])
def test_queues_that_keep_one_member_are_named(
    rendered: dict[str, Documents], local: Callable[[str], Any], lost: str
) -> None:
    documents = copy.deepcopy(rendered["rabbitmq-operator"])
    asked = find(documents, "RabbitmqCluster", "macromdm-rabbitmq")["spec"]["rabbitmq"]
    asked["additionalConfig"] = asked["additionalConfig"].replace(lost, "")

    faults = list(local("check_k8s").faults(documents))

    assert faults == ["macromdm-rabbitmq: a queue may keep one member, of three nodes"]


def test_a_moving_image_and_an_only_replica_are_named(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    documents = copy.deepcopy(rendered["all components"])
    find(documents, "RabbitmqCluster", "macromdm-rabbitmq")["spec"]["image"] = "rabbitmq:4"
    for deployment in local("manifest_pods").deployments(documents):
        deployment["spec"]["replicas"] = 1

    faults = list(local("check_k8s").faults(documents))

    assert "rabbitmq:4 has no exact version" in faults
    said = "macromdm-webhook: has one replica, and its clients wait while that one is replaced"
    assert said in faults


def test_every_overlay_and_component_is_rendered(rendered: dict[str, Documents]) -> None:
    folders = (ROOT / "deploy" / "k8s").glob("*/*/kustomization.yaml")

    expected = {path.parent.name for path in folders if path.parent.name != "services"}

    assert rendered.keys() == {"base", "all components", "with operators"} | expected
    assert {"development", "production", "cert-manager", "keda", "gateway-api"} <= expected


def test_what_does_not_render_is_a_fault(local: Callable[[str], Any], tmp_path: Path) -> None:
    renders = local("renders")
    (tmp_path / "kustomization.yaml").write_text("resources: [away.yaml]\n")

    with pytest.raises(renders.NotRendered, match=r"away\.yaml"):
        renders.build(tmp_path)


def test_a_tool_that_cannot_be_built_is_a_failure(
    local: Callable[[str], Any], tmp_path: Path
) -> None:
    tools = local("go_tools")

    with pytest.raises(tools.NoTool, match="failed"):
        tools.run(["false"])


def test_a_changed_setting_replaces_the_pods(local: Callable[[str], Any], tmp_path: Path) -> None:
    renders = local("renders")
    names = set()
    for text in ("A=1\n", "A=2\n"):
        (tmp_path / "settings.env").write_text(text)
        (tmp_path / "kustomization.yaml").write_text(
            "configMapGenerator: [{name: macromdm, envs: [settings.env]}]\n"
        )
        names.add(renders.build(tmp_path)[0]["metadata"]["name"])

    assert len(names) == 2


# --- the compose file ---------------------------------------------------------------------------------

COMPOSE: dict[str, tuple[Callable[[Document], object], str]] = {
    "another command": (lambda c: c["push"].update(command=["webhook"]), "another command"),
    "another port": (
        lambda c: c["push"]["environment"].update(MDM_HTTP=":8080"),
        "MDM_HTTP is :8083 in deploy/k8s",
    ),
    "a setting less": (
        lambda c: c["push"]["environment"].pop("MDM_API_KEY"),
        "push: has no MDM_API_KEY",
    ),
    "no .env": (lambda c: c["push"].pop("env_file"), "does not get the settings in .env"),
}


@pytest.mark.parametrize(("mistake", "said"), COMPOSE.values(), ids=COMPOSE)
def test_what_differs_between_compose_and_kubernetes_is_named(
    rendered: dict[str, Documents],
    local: Callable[[str], Any],
    mistake: Callable[[Document], object],
    said: str,
) -> None:
    check = local("check_deploy")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    deployments = local("manifest_pods").deployments(rendered["base"])
    assert list(check.manifest_faults(compose, deployments)) == []

    mistake(compose["services"])

    assert any(said in fault for fault in check.manifest_faults(compose, deployments))


def test_a_health_check_of_another_port_and_a_short_grace_are_named(
    local: Callable[[str], Any],
) -> None:
    check = local("check_deploy")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert list(check.port_faults(services)) == []

    services["push"]["healthcheck"] = services["commands"]["healthcheck"]
    services["webhook"]["stop_grace_period"] = "10s"

    assert list(check.port_faults(services)) == [
        "docker-compose.yml: push: its health check does not ask /readyz on 9083",
        "docker-compose.yml: webhook: may be killed before it has ended",
    ]


def test_other_versions_of_mongodb_and_rabbitmq_are_named(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    check = local("check_deploy")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    compose["services"]["mongodb"]["image"] = "mongo:8.0.99"
    compose["services"]["rabbitmq"]["image"] = "rabbitmq:4.1.99"

    of_development = list(check.version_faults(compose, rendered["development"]))
    of_operators = list(check.version_faults(compose, rendered["all components"]))

    assert [len(of_development), len(of_operators)] == [2, 2]
    assert "docker-compose.yml: has mongo:8.0.99, not 8.0.12" in of_operators


def test_an_image_with_a_digest_has_an_exact_version(local: Callable[[str], Any]) -> None:
    digest = f"sha256:{'0' * 64}"
    compose = {"services": {"a": {"image": f"mongo@{digest}"}, "b": {"image": f"mongo:8@{digest}"}}}

    assert list(local("check_deploy").image_faults(compose)) == []


def test_a_moving_tag_and_an_endless_log_are_named(local: Callable[[str], Any]) -> None:
    check = local("check_deploy")
    compose = {"services": {"mongodb": {"image": "mongo:8"}}}

    assert list(check.image_faults(compose)) == [
        "docker-compose.yml: mongodb: mongo:8 has no exact version"
    ]
    assert list(check.log_faults(compose)) == [
        "docker-compose.yml: mongodb: its log grows without end"
    ]


@pytest.mark.parametrize("command", ["printf x >/tmp/key", "printf x > /var/tmp/key"])
def test_a_key_that_a_second_start_cannot_write_is_named(
    local: Callable[[str], Any], command: str
) -> None:
    key_faults = local("check_deploy").key_faults

    assert list(key_faults(["bash", "-c", f"{command} && exec mongod"])) == [
        "docker-compose.yml: mongodb: writes its key where a second start cannot"
    ]
    assert list(key_faults(["bash", "-c", "printf x >/etc/mongo.key"])) == []


def test_an_example_that_lacks_something_or_names_what_is_not_is_named(
    local: Callable[[str], Any],
) -> None:
    compose = "a: ${MDM_API_KEY:?put one in}\nb: ${MONGODB_PASSWORD:?}\nc: ${REVISION:-}\n"

    faults = list(local("check_deploy").example_faults("MDM_API_KEY=x\n#MDM_PUSH_CRET=\n", compose))

    assert faults == [
        ".env.example: MDM_PUSH_CRET is no setting",
        ".env.example: has no MONGODB_PASSWORD, which docker-compose.yml needs",
    ]


def test_make_up_runs_the_commands_and_settings_of_the_manifests(
    rendered: dict[str, Documents], local: Callable[[str], Any]
) -> None:
    parts, supervisor = local("parts"), local("supervisor")
    shared = supervisor.service_settings("127.0.0.1:8080", "mongodb://x/y", "amqp://x")
    [entry] = re.findall(r"^ENTRYPOINT \[(.*)\]$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in parts.SERVICES:
        part = parts.service(name, shared)
        kubernetes = container(rendered["base"], name)

        assert part.command[1:] == [*yaml.safe_load(f"[{entry}]")[1:], *kubernetes["args"]]
        wanted = {each["name"].removesuffix("_FILE") for each in kubernetes["env"]}
        wanted |= find(rendered["base"], "ConfigMap", "macromdm")["data"].keys()
        given = {each.removesuffix("_FILE") for each in part.environment}
        assert wanted - given == {"MDM_LOG_FORMAT"}


# --- the image's packages, and workflows -------------------------------------------------------------

DOCKERFILE = {
    "another Python": ("python:3.11", "python:3.13", "its stages are"),
    "a moving tag": ("FROM python:3.11.14-slim-bookworm\n", "FROM python:3\n", "its stages are"),
    "root": ("USER 10001:10001", "USER root", "runs as root"),
    "another group": (
        "groupadd --gid 10001",
        "groupadd --gid 999",
        "makes no user 10001 of the group",
    ),
    "a compiler": ("RUN groupadd", "RUN apt-get install gcc && groupadd", "installs something"),
    "no hashes": ("--require-hashes", "", "without their hashes"),
    "an old label": ('version="0.1.0"', 'version="0.0.9"', "of another version than 0.1.0"),
    "a lost label": ("org.opencontainers.image.revision", "revision", "has no label revision"),
    "a lost file": ("COPY shared shared", "COPY shard shared", "copies shard"),
    "a typo": ("EXPOSE", "EXPOES", "EXPOES is no instruction"),
}


@pytest.mark.parametrize(("old", "new", "said"), DOCKERFILE.values(), ids=DOCKERFILE)
def test_a_mistake_in_the_dockerfile_is_named(
    local: Callable[[str], Any], old: str, new: str, said: str
) -> None:
    check, text = local("check_deploy"), (ROOT / "Dockerfile").read_text()
    assert old in text
    assert list(check.image_file_faults(text, "0.1.0")) == []

    assert any(said in fault for fault in check.image_file_faults(text.replace(old, new), "0.1.0"))


LOCK = "six==1.17.0 \\\n    --hash=sha256:" + "a" * 64 + "\n"


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        (LOCK, ["six>=1,<2"], []),
        (LOCK, ["six>=2"], ["has six 1.17.0, and pyproject.toml asks for >=2"]),
        (LOCK, ["six", "h2>=4"], ["has h2 not at all, and pyproject.toml asks for >=4"]),
        ("six==1.17.0\n", ["six"], ["six has no hash"]),
        ("", [], ["is no lock"]),
    ],
    ids=["as it should be", "too old", "lost", "no hash", "empty"],
)
def test_a_lock_that_differs_from_pyproject_is_named(
    local: Callable[[str], Any], text: str, wanted: list[str], said: list[str]
) -> None:
    assert list(local("lock").faults(text, wanted)) == said


@pytest.mark.parametrize("command", ["pytest", "make tset", "make test && curl x", "make"])
def test_a_workflow_calls_targets_only(local: Callable[[str], Any], command: str) -> None:
    workflow = {"jobs": {"check": {"steps": [{"uses": "x"}, {"run": command}]}}}

    assert list(local("check_workflows").target_faults(workflow, {"test"})) == [
        f"check: `{command}` is no target of the Makefile"
    ]
