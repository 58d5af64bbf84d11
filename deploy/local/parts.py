"""The processes of `make up`: how each is started, and how to see that it serves.

Promises: everything listens on loopback and keeps its state in one folder; nothing is shared with
a server of the machine (own node name, own epmd, own configuration); RabbitMQ keeps its node name
over restarts, because its folder belongs to that name.
"""

import http.client
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

RABBIT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
NGINX = "/usr/sbin/nginx"
TEMPLATE = Path(__file__).resolve().parent.parent / "proxy" / "macromdm.conf.template"
PROXY_ADDRESS = "127.0.0.1"
"""The proxy calls the services from here; it is the one that they trust."""
SERVICES = {"checkin": 8081, "commands": 8082, "push": 8083, "webhook": 8084}


@dataclass(frozen=True)
class Part:
    """One process: `serves` tells when the next one may start."""

    name: str
    command: list[str]
    serves: Callable[[], bool]
    where: str
    environment: Mapping[str, str] = field(default_factory=dict)
    inherits: bool = True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def is_ready(ops_port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", ops_port, timeout=2)
    try:
        link.request("GET", "/readyz")
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def epmd(port: int) -> Part:
    return Part(
        name="epmd",
        command=[shutil.which("epmd") or "epmd"],
        serves=lambda: accepts(port),
        where=f"127.0.0.1:{port}",
        environment={"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(port)},
    )


def rabbit(folder: Path, port: int, epmd_port: int) -> Part:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plugins").write_text("[].\n")
    (folder / "env.conf").write_text("")
    (folder / "rabbit.conf").write_text("log.file.level = warning\n")
    # Host names from here alone: Erlang's resolver helpers would outlive a kill -9.
    (folder / "inetrc").write_text('{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n')

    def serves() -> bool:
        """It listens before it can serve, so it must answer the protocol's header."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
                link.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(link.recv(1))
        except OSError:
            return False

    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_INETRC": str(folder / "inetrc"),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": "macromdm@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
        # The start script becomes the Erlang machine, so that the pid we know is the server's.
        "RUNNING_UNDER_SYSTEMD": "1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
    }
    return Part("rabbitmq", [RABBIT], serves, f"127.0.0.1:{port}", environment, inherits=False)


def store(folder: Path, port: int) -> Part:
    """SecantusDB, in place of a MongoDB: the store of several processes."""
    program = Path(sys.executable).with_name("secantusd-py")
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--standalone"]
    command += ["--sync-on-commit", "--log-level", "WARNING", "--cache-size", "256M"]
    command += ["--storage-path", str(folder)]
    return Part("store", command, lambda: accepts(port), f"127.0.0.1:{port}")


def service(name: str, settings: Mapping[str, str]) -> Part:
    port = SERVICES[name]
    own = {"MDM_HTTP": f"127.0.0.1:{port}", "MDM_OPS_HTTP": f"127.0.0.1:{port + 1000}"}
    return Part(
        name=name,
        command=[sys.executable, "-m", "services", name],
        serves=lambda: is_ready(port + 1000),
        where=f"127.0.0.1:{port}, health and metrics on 127.0.0.1:{port + 1000}",
        environment={**settings, **own},
    )


def routes(listen: str, client_cert_header: str) -> str:
    """The route configuration with every name filled in: here the services have fixed ports."""
    upstreams = "".join(
        f"upstream {name} {{ server 127.0.0.1:{port}; keepalive 32; }}\n"
        for name, port in SERVICES.items()
    )
    names = {f"{name.upper()}_ADDRESS": name for name in SERVICES}
    return upstreams + filled_in(listen, client_cert_header, names)


def filled_in(listen: str, client_cert_header: str, names: Mapping[str, str]) -> str:
    """The template of the routes: `names` are the addresses of the services and, where these are hosts, the
    RESOLVER."""
    own = {"LISTEN": listen, "CLIENT_CERT_HEADER": client_cert_header or "Client-Cert"}
    given = {"RESOLVER": "", **own, **names}
    return re.sub(r"\$\{([A-Z_]+)\}", lambda match: given[match[1]], TEMPLATE.read_text())


def proxy(folder: Path, listen: str, client_cert_header: str = "") -> Part:
    """nginx with the routes; it removes the header that MDM_CLIENT_CERT_HEADER names from outside."""
    (folder / "temporary").mkdir(parents=True, exist_ok=True)
    (folder / "routes.conf").write_text(routes(listen, client_cert_header))
    (folder / "nginx.conf").write_text(nginx_frame(folder))
    port = int(listen.rpartition(":")[2])
    command = [NGINX, "-p", f"{folder}/", "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    return Part("proxy", command, lambda: accepts(port), listen)


def nginx_frame(folder: Path) -> str:
    """What surrounds the routes: everything that nginx writes stays in `folder`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    entries = "".join(f"    {kind}_temp_path {folder}/temporary/{kind};\n" for kind in kinds)
    return (
        # One process, without a master: it ends with the supervisor, and no worker stays behind.
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n"
        "events { worker_connections 4096; }\n"
        f"http {{\n    access_log off;\n{entries}    include {folder}/routes.conf;\n}}\n"
    )
