"""Checks deploy/kubernetes: rendered by kustomize, held to the schemas of Kubernetes and of the two
custom resources, and to what no schema knows: that names meet, that probes cannot deadlock, that the
autoscalers aim at the limit of the configuration.

Then it plants mistakes, each of which has to be found, so that the check is known to check.

    kubernetes.py KUBECTL TIDEGATE      all of this
    kubernetes.py pod KUBECTL DOCKER... the pod of the base by hand, in two containers
"""

import copy
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import tomllib

import jsonschema
import yaml

HERE = pathlib.Path(__file__).parent
DEPLOY = HERE.parent.parent / "deploy"
BIN = pathlib.Path(sys.executable).parent
# The oldest that deploy/kubernetes/base/kustomization.yaml speaks of, and the newest that is known.
VERSIONS = ["1.30.0", "1.37.0"]
CUSTOM = {
    "monitoring.coreos.com/v1 PodMonitor": "podmonitor.json",
    "keda.sh/v1alpha1 ScaledObject": "scaledobject.json",
}


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def render(kubectl, directory):
    done = run(kubectl, "kustomize", str(DEPLOY / "kubernetes" / directory))
    # What kustomize warns about (a field that will go) is not to be shipped either.
    if done.returncode or done.stderr:
        sys.exit(f"{directory} cannot be rendered: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_schema(documents):
    """What the schemas say. A kind that none of them knows is a mistake too, not a warning."""
    found = []
    plain = []
    for document in documents:
        name = f"{document['apiVersion']} {document['kind']}"
        if name in CUSTOM:
            schema = json.loads((HERE / "schemas" / CUSTOM[name]).read_text())
            checker = jsonschema.Draft7Validator(schema)
            for error in checker.iter_errors(document):
                found.append(f"{name}: {error.json_path}: {error.message}")
        else:
            plain.append(document)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(plain, file)
        file.flush()
        for version in VERSIONS:
            done = run(str(BIN / "kubernetes-validate"), "--strict", "-k", version, file.name)
            said = (done.stdout + done.stderr).splitlines()
            bad = [line for line in said if not line.startswith("INFO ")]
            passed = sum(" passed for resource " in line for line in said)
            if done.returncode or bad or passed != len(plain):
                found.append(f"Kubernetes {version}: {passed} of {len(plain)} pass: {' '.join(bad)}")
    return found


def one(documents, kind):
    return next((document for document in documents if document["kind"] == kind), None)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


class Pod:
    def __init__(self, documents):
        self.documents = documents
        self.deployment = one(documents, "Deployment")
        template = self.deployment["spec"]["template"]
        self.labels = template["metadata"]["labels"]
        self.spec = template["spec"]
        self.sidecar = self.spec["initContainers"][0]
        self.app = self.spec["containers"][0]
        self.both = [self.sidecar, self.app]

    def ports(self, container):
        return {port["name"]: port["containerPort"] for port in container.get("ports", [])}

    def config(self):
        """The configuration that the volume of the sidecar has, by the name that kustomize gave it."""
        mounted = {mount["name"] for mount in self.sidecar["volumeMounts"]}
        for volume in self.spec["volumes"]:
            if volume["name"] in mounted and "configMap" in volume:
                for document in self.documents:
                    named = document["metadata"]["name"] == volume["configMap"]["name"]
                    if document["kind"] == "ConfigMap" and named:
                        return document["data"]["tidegate.toml"]
        return None


def of_meaning(documents, tidegate):
    found = []
    pod = Pod(documents)
    config = pod.config()
    if config is None:
        return ["the volume of the sidecar names no ConfigMap that is there"]
    settings = tomllib.loads(config)
    limit = settings["upstream"]["max_in_flight"]

    def explain(*arguments):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(config)
            file.flush()
            return run(tidegate, "check", "-c", file.name, "--deny-warnings", *arguments)

    checked = explain()
    if checked.returncode:
        found.append(f"tidegate.toml: {checked.stdout}{checked.stderr}")

    # A native sidecar, started by what does not wait for the application.
    if pod.sidecar.get("restartPolicy") != "Always":
        found.append("the init container does not stay")
    if pod.sidecar["startupProbe"]["httpGet"] != {"path": "/live", "port": "admin"}:
        found.append("the application starts after this probe, which may wait for the application")
    for container in pod.both:
        ports = pod.ports(container)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {}).get("httpGet")
            if probe is None:
                continue
            port = ports.get(probe["port"]) if isinstance(probe["port"], str) else probe["port"]
            if port is None:
                found.append(f"{kind} of {container['name']}: {probe['port']} is no port of it")
            elif port == 9909:
                if probe["path"] not in ("/live", "/ready"):
                    found.append(f"{kind} of {container['name']}: {probe['path']}")
            elif "exempt" not in explain("--explain", f"GET {probe['path']}").stdout:
                found.append(f"{kind} of {container['name']} passes through the queue")
    if "livenessProbe" in pod.sidecar and pod.sidecar["livenessProbe"]["httpGet"]["path"] != "/live":
        found.append("a drain would be taken for death")

    # The end: the application works on for a while, and there is time for everything.
    server = settings.get("server", {})
    needed = pod.app["lifecycle"]["preStop"]["sleep"]["seconds"] + seconds(settings["defaults"]["max_wait"])
    needed += seconds(server.get("drain_delay", "0s")) + seconds(server.get("shutdown_grace", "8s"))
    if needed > pod.spec["terminationGracePeriodSeconds"]:
        found.append(f"the pod is killed before {needed} s have passed")
    for container in pod.both:
        context = container["securityContext"]
        if not context["readOnlyRootFilesystem"] or context["capabilities"] != {"drop": ["ALL"]}:
            found.append(f"{container['name']} may do more than it needs")

    # Names that must meet.
    named = {name for container in pod.both for name in pod.ports(container)}
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        selector = {"Service": spec.get("selector"), "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels")}
        selector = selector.get(kind, spec.get("selector", {}).get("matchLabels", {}) if kind == "PodMonitor" else {})
        if any(pod.labels.get(key) != value for key, value in (selector or {}).items()):
            found.append(f"{kind} selects other pods")
        if kind in ("Service", "NetworkPolicy", "PodMonitor") and not selector:
            found.append(f"{kind} selects every pod")
        ports = [port["targetPort"] for port in spec.get("ports", [])] if kind == "Service" else []
        ports += [port["port"] for port in spec.get("podMetricsEndpoints", [])]
        ports += [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
        found += [f"{kind}: {port} is no port of the pod" for port in ports if port not in named]
        target = spec.get("scaleTargetRef", {}).get("name")
        if target not in (None, pod.deployment["metadata"]["name"]):
            found.append(f"{kind} scales what is not there")
        aim = None
        if kind == "HorizontalPodAutoscaler":
            aim = float(spec["metrics"][0]["pods"]["target"]["averageValue"].removesuffix("m")) / 1000
        if kind == "ScaledObject":
            metadata = spec["triggers"][0]["metadata"]
            missing = {"serverAddress", "query", "threshold"} - set(metadata)
            found += [f"ScaledObject: {key} is missing" for key in missing]
            aim = float(metadata.get("threshold", "nan"))
            found += of_promql(metadata.get("query", ""))
        if aim is not None and abs(aim - 0.7 * limit) > 0.01:
            found.append(f"{kind} aims at {aim}, which is not 70 % of {limit}")
    return found


def of_promql(query):
    """Prometheus's own parser, by way of a rule."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        rule = {"record": "a:b", "expr": query}
        yaml.safe_dump({"groups": [{"name": "a", "rules": [rule]}]}, file)
        file.flush()
        done = run("promtool", "check", "rules", file.name)
        return [] if done.returncode == 0 else [f"{query}: {done.stdout}{done.stderr}"]


def of_adapter(documents):
    """The rule of the Prometheus Adapter, filled in as the adapter does, and the name that it gives."""
    values = yaml.safe_load((DEPLOY / "kubernetes/overlays/hpa/prometheus-adapter-values.yaml").read_text())
    rule = values["rules"]["custom"][0]
    series = rule["seriesQuery"].split("{")[0]
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="a",pod=~"b|c"')
    asked = one(documents, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    found = of_promql(query) + of_promql(rule["seriesQuery"])
    if re.match(rule["name"]["matches"], series) is None or rule["name"]["as"] != asked:
        found.append(f"the adapter has no {asked}")
    return found


def put(documents, kind, path, value):
    """A copy with one value changed; None takes it away."""
    documents = copy.deepcopy(documents)
    place = one(documents, kind)
    *path, last = path
    for step in path:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return documents


SPEC = ("spec", "template", "spec")
SIDECAR = (*SPEC, "initContainers", 0)
APP = (*SPEC, "containers", 0)
PLANTED = [
    ("base", "Deployment", (*SIDECAR, "restartPolcy"), "Always", "pass"),
    ("base", "Deployment", (*SIDECAR, "startupProbe", "periodSeconds"), "often", "pass"),
    ("base", "Service", ("kind",), "Servise", "pass"),
    ("base", "Deployment", (*SIDECAR, "restartPolicy"), None, "does not stay"),
    ("base", "Deployment", (*SIDECAR, "startupProbe", "httpGet", "path"), "/ready", "may wait"),
    ("base", "Deployment", (*APP, "readinessProbe", "httpGet", "path"), "/", "through the queue"),
    ("base", "Deployment", (*APP, "readinessProbe", "httpGet", "port"), "http", "no port of it"),
    ("base", "Deployment", (*SIDECAR, "livenessProbe", "httpGet", "path"), "/ready", "for death"),
    ("base", "Deployment", (*SPEC, "terminationGracePeriodSeconds"), 15, "is killed before"),
    ("base", "Deployment", (*SPEC, "volumes", 0, "configMap", "name"), "other", "no ConfigMap"),
    ("base", "Service", ("spec", "ports", 0, "targetPort"), "web", "no port of the pod"),
    ("base", "NetworkPolicy", ("spec", "podSelector"), {}, "every pod"),
    ("overlays/hpa", "PodMonitor", ("spec", "podMetricEndpoints"), [], "PodMonitor"),
    ("overlays/hpa", "PodMonitor", ("spec", "podMetricsEndpoints", 0, "port"), "adm", "no port of"),
    ("overlays/hpa", "HorizontalPodAutoscaler", ("spec", "scaleTargetRef", "name"), "x", "not there"),
    ("overlays/hpa", "HorizontalPodAutoscaler", ("spec", "minReplica"), 1, "pass"),
    ("overlays/keda", "ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 11.2, "string"),
    ("overlays/keda", "ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), "12", "70 %"),
    ("overlays/keda", "ScaledObject", ("spec", "triggers", 0, "metadata", "query"), "sum(", "sum("),
    ("overlays/keda", "ScaledObject", ("spec", "cooldown"), 3, "ScaledObject"),
]


def check(kubectl, tidegate):
    rendered = {name: render(kubectl, name) for name in ("base", "overlays/hpa", "overlays/keda")}

    def complaints(documents):
        # What the schemas refuse has no meaning to be looked at.
        return of_schema(documents) or of_meaning(documents, tidegate)

    for name, documents in rendered.items():
        found = complaints(documents)
        if found:
            sys.exit(f"{name}: " + "\n".join(found))
        print(f"    {name}: {len(documents)} resources, for Kubernetes {' and '.join(VERSIONS)}")
    found = of_adapter(rendered["overlays/hpa"])
    if found:
        sys.exit("\n".join(found))
    for name, kind, path, value, expected in PLANTED:
        found = complaints(put(rendered[name], kind, path, value))
        if not any(expected in complaint for complaint in found):
            sys.exit(f"planted in {kind}: {path} = {value} is not found but {found}")
    print(f"    {len(PLANTED)} planted mistakes, all found")


def pod(kubectl, docker):
    """The containers of the pod as Docker would have them, in one network; the probes by hand."""
    shape = Pod(render(kubectl, "base"))
    directory = tempfile.mkdtemp()
    pathlib.Path(directory, "tidegate.toml").write_text(shape.config())
    pathlib.Path(directory).chmod(0o755)
    images = {"tidegate": "tidegate-test", "app": "tidegate-test-python"}

    def start(container, *more):
        context = container["securityContext"]
        command = container.get("command", []) + container.get("args", [])
        entry = ["--entrypoint", command[0]] if command else []
        done = run(
            *docker, "run", "-d", "--name", f"tidegate-test-pod-{container['name']}", "--read-only",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--user", f"{context['runAsUser']}:{context['runAsGroup']}",
            "--memory", container["resources"]["limits"]["memory"].replace("Mi", "m"),
            *more, *entry, images[container["name"]], *command[1:],
        )
        if done.returncode:
            sys.exit(done.stderr)

    def probe(container, kind):
        http = container[kind]["httpGet"]
        port = shape.ports(container).get(http["port"], http["port"])
        ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{http['path']}', timeout=2)"
        inside = ("--network", "container:tidegate-test-pod-tidegate", "tidegate-test-python")
        deadline = time.monotonic() + 20
        while run(*docker, "run", "--rm", *inside, "python3", "-c", ask).returncode:
            if time.monotonic() > deadline:
                sys.exit(f"{kind} of {container['name']} does not succeed")
        print(f"    {kind} of {container['name']}: {http['path']} at {port} succeeds")

    start(shape.sidecar, "-v", f"{directory}:/etc/tidegate:ro")
    # In this order: the application does not run before the first has succeeded.
    probe(shape.sidecar, "startupProbe")
    probe(shape.sidecar, "readinessProbe")
    start(shape.app, "--network", "container:tidegate-test-pod-tidegate", "--tmpfs", "/tmp:mode=1777")
    probe(shape.app, "readinessProbe")
    probe(shape.sidecar, "livenessProbe")
    run(*docker, "rm", "-f", "tidegate-test-pod-app", "tidegate-test-pod-tidegate")


if sys.argv[1] == "pod":
    pod(sys.argv[2], sys.argv[3:])
else:
    check(sys.argv[1], sys.argv[2])
