"""The programs that docs/kubernetes.md calls, without a cluster: what a command names has to exist.

`apply -k` renders by kustomize, and refuses to change a Job; `exec` runs its command here with the
environment of that pod, from `$CLUSTER/NAME.json`; all other commands look at what was applied. An unknown
command fails.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

CLUSTER = Path(os.environ["CLUSTER"])
APPLIED = CLUSTER / "applied.json"
KINDS = {"deploy": "Deployment", "deployment": "Deployment", "service": "Service", "job": "Job"}


def applied() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(APPLIED.read_text())
    return found


def named(kind: str, name: str) -> dict[str, Any]:
    for each in applied():
        if (each["kind"], each["metadata"]["name"]) == (KINDS[kind], name):
            return each
    raise SystemExit(f"there is no {kind} {name}")


def apply(folder: str) -> None:
    sys.path.insert(0, os.environ["DEPLOY_LOCAL"])
    import renders

    documents = renders.build(Path(folder))
    for job in [each for each in applied() if each["kind"] == "Job"] if APPLIED.exists() else ():
        if any(each["kind"] == "Job" and each["spec"] != job["spec"] for each in documents):
            raise SystemExit(f"the Job {job['metadata']['name']}: field is immutable")
    APPLIED.write_text(json.dumps(documents))


def delete(kind: str, name: str) -> None:
    found = named(kind, name)
    APPLIED.write_text(json.dumps([each for each in applied() if each != found]))


def annotate() -> None:
    if not any(each["kind"] == "ScaledObject" for each in applied()):
        raise SystemExit("there is no scaledobject")


def port_forward(name: str, port: str) -> None:
    ports = [each["port"] for each in named("service", name)["spec"]["ports"]]
    if int(port) not in ports:
        raise SystemExit(f"the service {name} has the ports {ports}")


def execute(name: str, command: str) -> None:
    named("deploy", name)
    environ = json.loads((CLUSTER / f"{name}.json").read_text())
    raise SystemExit(subprocess.run(command.split(), env=environ, check=False).returncode)


def create_secret(name: str, _: str) -> None:
    volumes = [
        volume.get("secret", {}).get("secretName")
        for each in applied()
        if each["kind"] == "Deployment"
        for volume in each["spec"]["template"]["spec"]["volumes"]
    ]
    if name not in volumes:
        raise SystemExit(f"no pod has the Secret {name}")


def nothing(*_: str) -> None:
    applied()


COMMANDS = {
    r"kubectl apply -k (\S+)": apply,
    r"kubectl -n macromdm wait --for=condition=available deployment --all --timeout=5m": nothing,
    r"kubectl -n macromdm rollout status deployment --timeout=10m": nothing,
    r"kubectl -n macromdm wait --for=delete pod --selector=app.kubernetes.io/name=macromdm "
    r"--timeout=2m": nothing,
    r"kubectl -n macromdm scale deployment --all --replicas=[02]": nothing,
    r"kubectl -n macromdm annotate scaledobject --all autoscaling.keda.sh/paused-replicas"
    r"(?:=0 --overwrite|-)": annotate,
    r"kubectl -n macromdm get pods": nothing,
    r"kubectl -n macromdm port-forward service/(\S+) (\d+)": port_forward,
    r"kubectl -n macromdm exec macromdm-rabbitmq-server-0 -c rabbitmq -- "
    r"rabbitmq-queues quorum_status webhook\.00": nothing,
    r"kubectl -n macromdm exec deploy/(\S+) -- (.+)": execute,
    r"kubectl -n macromdm create secret generic (\S+) --from-file=(\S+)": create_secret,
    r"kubectl -n macromdm apply edit-last-applied (deployment) (\S+)": named,
    r"kubectl -n macromdm rollout restart (deployment) (\S+)": named,
    r"kubectl -n macromdm delete (job) (\S+) --ignore-not-found": delete,
    r"kind create cluster": lambda: None,
    r"(kind) load (docker-image \S+)": lambda *said: note(*said),
    r"(docker) build .*--tag (\S+) \.": lambda *said: note(*said),
    r"podman tag (\S+) (\S+)": lambda image, name: note(f"podman {image}", name),
    r"podman save --output (\S+) (\S+)": lambda file, name: save(file, name),
    r"kind load image-archive (\S+)": lambda file: note("kind", Path(file).read_text()),
}


def save(file: str, name: str) -> None:
    Path(file).write_text(name)


def note(program: str, what: str) -> None:
    with (CLUSTER / "images").open("a") as file:
        file.write(f"{program} {what}\n")


def main() -> None:
    said = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    for pattern, act in COMMANDS.items():
        if found := re.fullmatch(pattern, said):
            act(*found.groups())
            return
    raise SystemExit(f"not a command of this test: {said}")


if __name__ == "__main__":
    main()
