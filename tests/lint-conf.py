"""What no schema says: that the files for deploying agree with each other and with the program's settings."""

import pathlib
import re
import tomllib

import yaml

here = pathlib.Path(__file__).resolve().parent.parent
folder = here / "conf" / "kubernetes"

kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
objects = {}
for name in kustomization["resources"]:
    for document in yaml.safe_load_all((folder / name).read_text()):
        objects[document["kind"], document["metadata"]["name"]] = document

deployment = objects["Deployment", "tidings"]["spec"]
pod = deployment["template"]["spec"]
[container] = pod["containers"]
labels = deployment["template"]["metadata"]["labels"]
ports = {port["name"]: port["containerPort"] for port in container["ports"]}


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)([sm]?)", text).groups()
    return int(number) * {"m": 60}.get(unit, 1)


def names(settings, before=""):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from names(value, f"{before}{name}.")
        else:
            yield before + name


# Only settings that there are.
defaults = tomllib.loads((here / "conf" / "default.toml").read_text())
settings = tomllib.loads((folder / "tidings.toml").read_text())
known = set(names(defaults))
assert set(names(settings)) <= known, set(names(settings)) - known
environment = re.findall(r"TIDINGS__(\w+?)__(\w+)", "".join(
    (here / "conf" / name).read_text() for name in ("Dockerfile", "tidings.service", "kubernetes/kustomization.yaml")))
for section, key in environment:
    assert f"{section}.{key}".lower() in known, (section, key)

# The node listens where others look for it.
for section, port in ports.items():
    [address] = settings[section]["listen"]
    assert address.endswith(f":{port}"), (address, port)
for (kind, name), found in objects.items():
    if kind == "Service":
        assert found["spec"]["selector"] == labels, name
        assert {port["targetPort"] for port in found["spec"]["ports"]} <= ports.keys(), name
    if kind in ("PodDisruptionBudget",):
        assert found["spec"]["selector"]["matchLabels"] == labels, name
    if kind == "NetworkPolicy":
        assert found["spec"]["podSelector"]["matchLabels"] == labels, name
for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
    assert container[probe]["httpGet"]["port"] in ports, probe

# What Kubernetes waits for is longer than what the program takes.
grace = pod["terminationGracePeriodSeconds"]
stopping = seconds(settings["shutdown"]["drain"]) + seconds(settings["shutdown"]["timeout"])
assert container["lifecycle"]["preStop"]["sleep"]["seconds"] + stopping < grace, grace

# It scales on a metric that there is, and what it scales is there.
scaling = objects["HorizontalPodAutoscaler", "tidings"]["spec"]
assert ("Deployment", scaling["scaleTargetRef"]["name"]) in objects
exported = (here / "bridge" / "src" / "http" / "metrics.rs").read_text()
for metric in scaling["metrics"]:
    if metric["type"] == "Pods":
        assert f'"{metric["pods"]["metric"]["name"]}"' in exported, metric
assert scaling["minReplicas"] == deployment["replicas"]

print(f"{len(objects)} objects agree")
