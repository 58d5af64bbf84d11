"""docs/kubernetes.md, from an empty cluster to an enrolled device: every command is run as it is written.

In place of the cluster is `fake_cluster.py`; the services are processes with the settings of their pods.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.rendered import ROOT, Mounts, local_modules, workload
from tests.support.harness.system import ServiceProcess

pytestmark = pytest.mark.real

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
[DELIVERIES] = re.findall(r"`(kubectl [^`]+ services deliveries [^`]+)`", PAGE)
HOSTS = {"mdm.example.org": "mdm.example.net", "mdm-api.example.org": "mdm-api.example.net"}


def section(heading: str) -> str:
    return re.split(r"^#+ ", PAGE.split(f" {heading}\n")[1], flags=re.MULTILINE)[0]


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for each, content in found if each == language]


class Desk:
    """A checkout in an empty folder, with programs that stand for a cluster's."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.cluster = folder / "checkout", folder / "cluster"
        self.cluster.mkdir()
        away = shutil.ignore_patterns("secrets", "__pycache__")
        for name in ("deploy", "docs/examples"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=away)
        shutil.copy(ROOT / "Makefile", self.checkout)
        programs = folder / "bin"
        programs.mkdir()
        for name in ("kubectl", "kind", "docker", "podman"):
            script = ROOT / "tests/integration/fake_cluster.py"
            text = script.read_text()
            (programs / name).write_text(f"#!{sys.executable}\n{text}")
            (programs / name).chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CLUSTER": str(self.cluster),
            "DEPLOY_LOCAL": str(ROOT / "deploy" / "local"),
        }

    def run(self, commands: str) -> str:
        """What they say; fails with the first that fails."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.checkout,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def applied(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.cluster / "applied.json").read_text())
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_newcomer_enrolls_a_device(
    tmp_path: Path, desk: Desk, mongodb_url: str, amqp_url: str
) -> None:
    start, with_podman, forward, enroll, ask = blocks(section("Try it"))
    [key_file] = re.findall(r"`(\. deploy/\S+/secrets/api\.env)`", section("Try it"))

    desk.run(start)

    image = workload(desk.applied, "checkin")["spec"]["template"]["spec"]["containers"][0]["image"]
    desk.run(with_podman)
    noted = (desk.cluster / "images").read_text().splitlines()
    full = f"docker.io/library/{image}"
    assert noted[:2] == [f"docker {image}", f"kind docker-image {image}"]
    assert noted[2:] == [f"podman {image} {full}", f"kind {full}"]
    desk.run(forward)
    mounts = Mounts(tmp_path, desk.applied)
    mounts.urls = {"MDM_MONGODB_URL": mongodb_url, "MDM_AMQP_URL": amqp_url}
    processes = []
    try:
        for name in ("checkin", "commands", "webhook"):
            environ = mounts.environment(name)
            process = ServiceProcess(name, tmp_path / f"{name}-process", own_ports(environ))
            processes.append(process)
            process.start()
            pod = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
            pod["MDM_HTTP"] = f":{process.port}"
            (desk.cluster / f"macromdm-{name}.json").write_text(json.dumps(environ | pod))
        checkin, commands, _ = processes
        enroll = enroll.replace("http://127.0.0.1:8081", checkin.url)
        enroll = enroll.replace("/dev/shm/", f"{tmp_path}/shm-")
        ask = ask.replace("http://127.0.0.1:8082", commands.url)

        said = desk.run(enroll)
        listed = json.loads(desk.run(f"{key_file}\n{ask}"))
        desk.run(DELIVERIES)
    finally:
        for process in processes:
            process.close()

    assert said.split()[-2:] == ["200", "200"]
    assert [device["enrollment_status"] for device in listed["devices"]] == [True]


def own_ports(environ: dict[str, str]) -> dict[str, str]:
    """A process of a test listens where it is free."""
    rest = {k: v for k, v in environ.items() if k not in ("MDM_HTTP", "MDM_OPS_HTTP")}
    return rest | {"MDM_API_KEY": "", "MDM_DATA_DIR": ""}


def test_an_overlay_of_ones_own_is_applied_upgraded_and_restored(desk: Desk) -> None:
    inline = re.findall(
        r"`((?:cp -r|deploy/k8s/secrets\.sh|kubectl -n|kubectl apply -k) [^`]+)`", PAGE
    )
    mine = desk.checkout / "deploy/k8s/overlays/mine"
    inline = [each for each in inline if " ... " not in each and each != DELIVERIES]
    copy, make_secrets, apply, *others = inline

    desk.run(f"{copy}\n{make_secrets}")
    for name in ("kustomization.yaml", "settings.env"):
        text = (mine / name).read_text()
        for host, own in HOSTS.items():
            text = text.replace(f"api={host}", f"api={own}").replace(f"//{host}", f"//{own}")
        (mine / name).write_text(text)
    desk.run(apply)

    with local_modules():
        import check_k8s  # type: ignore[import-not-found]

        assert list(check_k8s.faults(desk.applied)) == []
    assert not re.search(r"mdm(-api)?\.example\.org", json.dumps(desk.applied))
    parts = ("Upgrade", "Back up", "Secrets and certificates")
    commands = "\n".join([*others, *(block for part in parts for block in blocks(section(part)))])
    assert len(re.findall("kubectl", commands)) >= 15
    desk.run(commands)


def test_a_changed_setting_is_applied_where_the_job_is_deleted_first(desk: Desk) -> None:
    desk.run("cp -r deploy/k8s/overlays/production deploy/k8s/overlays/mine")
    desk.run("deploy/k8s/secrets.sh deploy/k8s/overlays/mine")
    apply = "kubectl apply -k deploy/k8s/overlays/mine"
    desk.run(apply)
    with (desk.checkout / "deploy/k8s/overlays/mine/settings.env").open("a") as file:
        file.write("MDM_COMMAND_RETENTION=20 d\n")

    with pytest.raises(AssertionError, match="field is immutable"):
        desk.run(apply)
    desk.run(blocks(section("Secrets and certificates"))[-1])

    assert "20 d" in json.dumps(desk.applied)


@pytest.mark.parametrize(
    "command",
    [
        "kubectl -n macromdm exec deploy/macromdm-chekin -- true",
        "kubectl -n macromdm port-forward service/macromdm-checkin 8082",
        "kubectl -n macromdm delete job macromdm-prepair --ignore-not-found",
        "kubectl -n macromdm create secret generic macromdm-certificates --from-file=device-ca.pem",
        "kubectl -n macromdn get pods",
        "kubectl -n macromdm annotate scaledobject --all autoscaling.keda.sh/paused-replicas-",
        "kubectl apply -k deploy/k8s/overlays/mine",
    ],
)
def test_a_command_that_names_what_is_not_there_fails(command: str, desk: Desk) -> None:
    desk.run("deploy/k8s/secrets.sh deploy/k8s/overlays/development")
    desk.run("kubectl apply -k deploy/k8s/overlays/development")

    with pytest.raises(AssertionError):
        desk.run(command)


def test_every_command_of_the_page_is_in_a_part_that_is_run() -> None:
    parts = ("Try it", "Secrets and certificates", "Upgrade", "Back up")
    assert [block for part in parts for block in blocks(section(part))] == blocks(PAGE)


def test_what_to_do_is_said_for_each_alert() -> None:
    alerts = ROOT / "deploy/k8s/components/prometheus-operator/alerts.yaml"
    [group] = yaml.safe_load(alerts.read_text())["spec"]["groups"]

    said = re.findall(r"`(MacroMDM\w+)`", section("Alerts"))

    assert sorted(said) == sorted(rule["alert"] for rule in group["rules"])


@pytest.mark.parametrize("block", blocks(PAGE, "yaml"))
def test_the_changes_of_an_overlay_that_are_proposed_render(block: str, desk: Desk) -> None:
    overlay = desk.checkout / "deploy/k8s/overlays/production"
    desk.run(f"deploy/k8s/secrets.sh {overlay}")
    file = overlay / "kustomization.yaml"
    proposed, text = yaml.safe_load(block), yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(text | proposed))

    desk.run(f"kubectl apply -k {overlay}")

    with local_modules():
        import check_k8s

        assert list(check_k8s.faults(desk.applied)) == []
    for value in re.findall(r"(sha256:\w+|port: \d+)", block):
        assert value in yaml.safe_dump(desk.applied)
