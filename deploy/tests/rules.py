"""Rules for pods of the pooler and the objects around them. Each function returns a list of what is wrong, so that the tests can
show that a rule fails. Owns no files."""

import json

import common
import kubernetes_validate

VERSIONS = ["1.29", "1.32", kubernetes_validate.latest_version()]
# Fields that Kubernetes before the version refuses or ignores, for manifests that cannot ask the cluster.
NEW_FIELDS = {("Service", "trafficDistribution"): "1.30"}
# Volumes that the Pod Security level "restricted" permits.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
# For kinds that are not part of Kubernetes.
OWN_SCHEMAS = {"PodMonitor": "podmonitor.json", "PrometheusRule": "prometheusrule.json", "Kustomization": "kustomization.json"}


def name_of(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def older(version, other):
    return [int(part) for part in version.split(".")[:2]] < [int(part) for part in other.split(".")[:2]]


def schema_errors(thing, new_fields=False):
    """Strict validation for each version. With `new_fields`, fields that an old version does not know are permitted there."""
    import jsonschema

    found = []
    if thing["kind"] in OWN_SCHEMAS:
        schema = json.loads((common.SCHEMAS / OWN_SCHEMAS[thing["kind"]]).read_text())
        return [f"{thing['kind']}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(thing)]
    for version in VERSIONS:
        checked = thing
        if new_fields:
            spec = {key: value for key, value in thing.get("spec", {}).items()
                    if not older(version, NEW_FIELDS.get((thing["kind"], key), version))}
            checked = dict(thing, spec=spec) if "spec" in thing else thing
        try:
            kubernetes_validate.validate(checked, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{name_of(thing)}, Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{name_of(thing)}, Kubernetes {version}: {error.message}")
    return found


def pod_of(thing):
    """The pod's metadata and specification, or None."""
    if thing["kind"] in ("Deployment", "Job"):
        template = thing["spec"]["template"]
        return template["metadata"], template["spec"]
    return None


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def poolers(spec):
    """Containers of the pooler, each with whether it is a sidecar."""
    sidecars = [container for container in spec.get("initContainers", []) if container.get("restartPolicy") == "Always"]
    return [(container, container in sidecars) for container in containers(spec)
            if container["image"].split("@")[0].rpartition(":")[0] == common.IMAGE or container["image"].startswith(common.IMAGE + "@")]


def restricted_errors(spec):
    """Violations of the Pod Security level "restricted"."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    for volume in spec.get("volumes", []):
        found += [f"volume of type {kind}" for kind in set(volume) - {"name"} if kind not in VOLUMES]
    pod = spec.get("securityContext", {})
    for container in containers(spec):
        own, name = container.get("securityContext", {}), container["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation is not false")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            found.append(f"{name}: capabilities are not dropped")
        if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: capabilities are added")
        if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            found.append(f"{name}: runAsNonRoot is not true")
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            found.append(f"{name}: runs as root")
        if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name}: no seccomp profile")
        if own.get("privileged"):
            found.append(f"{name}: is privileged")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append(f"{name}: has a host port")
    return found


def hardening_errors(spec):
    """What this project requires besides "restricted"."""
    found = []
    if spec.get("automountServiceAccountToken") is not False:
        found.append("the token of the Kubernetes API is mounted")
    for container, _ in poolers(spec):
        context = container.get("securityContext", {})
        if context.get("readOnlyRootFilesystem") is not True:
            found.append(f"{container['name']}: the root file system can be written")
        if context.get("runAsUser") != common.IMAGE_USER or context.get("runAsGroup") != common.IMAGE_USER:
            found.append(f"{container['name']}: is not the user of the image")
    return found


class Configuration:
    """Settings of a container: variables, then the file, then defaults."""

    def __init__(self, container, file_text=None):
        self.variables = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
        self.file = common.ini(file_text).get("pgbouncer", {}) if file_text is not None else None

    def get(self, setting, default=None):
        value = self.variables.get(f"IAMBOUNCER_{setting.upper()}")
        return (self.file or {}).get(setting, default) if value is None else value

    def ports(self):
        given = self.get("listen_port")
        if given is not None:
            return {int(port) for port in given.split(",")}
        return {6432} if self.file is not None else common.IMAGE_PORTS

    def http_port(self):
        return int(self.get("http_port", common.DEFAULT_HTTP_PORT))

    def drain_max_seconds(self):
        """None means no limit."""
        given = self.get("drain_max_seconds")
        if given is None:
            return None if self.file is not None else common.DEFAULT_DRAIN_MAX_SECONDS
        return float(given)


def probe_errors(container, is_sidecar, configuration):
    """Each pooler has its probes, at paths and ports that exist. A sidecar needs no readiness probe: it counts for the pod."""
    paths, found = common.health_paths(), []
    allowed = {"startupProbe": paths["startup"] | paths["readiness"], "livenessProbe": paths["liveness"],
               "readinessProbe": paths["readiness"]}
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for probe, probe_paths in allowed.items():
        if probe not in container:
            if not (is_sidecar and probe == "readinessProbe"):
                found.append(f"{probe} is missing")
            continue
        get = container[probe].get("httpGet")
        if get is None:
            found.append(f"{probe} does not use HTTP")
            continue
        if get["path"] not in probe_paths:
            found.append(f"{probe}: wrong path {get['path']}")
        if ports.get(get["port"], get["port"]) != configuration.http_port():
            found.append(f"{probe}: the pooler does not serve port {get['port']}")
        # The kubelet connects to the address of the pod.
        if configuration.get("http_addr") != "*":
            found.append(f"{probe}: http_addr is not *")
    return found


def port_errors(container, configuration):
    served = configuration.ports() | {configuration.http_port()}
    return [f"port {port['containerPort']} is not served" for port in container.get("ports", []) if port["containerPort"] not in served]


def drain_errors(spec, configuration):
    grace, maximum = spec.get("terminationGracePeriodSeconds", 30), configuration.drain_max_seconds()
    if maximum is None:
        return ["drain_max_seconds is not set: the pooler would wait for its clients until it is killed"]
    return [] if grace > maximum else [f"terminationGracePeriodSeconds {grace} is not longer than drain_max_seconds {maximum}"]


def variable_errors(container):
    return [f"{container['name']}: unknown variable {variable['name']}" for variable in container.get("env", [])
            if variable["name"] not in common.variables()]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def service_errors(things):
    """Services, budgets, policies and autoscalers refer to pods of the same set of objects."""
    pods = [pod_of(thing) for thing in things if pod_of(thing)]
    found = []
    for thing in things:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            matches = [pod for meta, pod in pods if selects(spec["selector"], meta["labels"])]
            ports = [port for pod in matches for container in containers(pod) for port in container.get("ports", [])]
            known = {port.get("name") for port in ports} | {port["containerPort"] for port in ports}
            found += [f"{name_of(thing)}: no container has port {port['targetPort']}" for port in spec["ports"] if port["targetPort"] not in known]
        if thing["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = (spec.get("selector") or spec.get("podSelector"))["matchLabels"]
            if not any(selects(selector, meta["labels"]) for meta, _ in pods):
                found.append(f"{name_of(thing)}: selects no pod")
        if thing["kind"] == "Deployment":
            if not selects(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
                found.append(f"{name_of(thing)}: does not select its own pods")
            constraints = spec["template"]["spec"].get("topologySpreadConstraints", [])
            if not all(selects(constraint["labelSelector"]["matchLabels"], spec["template"]["metadata"]["labels"]) for constraint in constraints):
                found.append(f"{name_of(thing)}: a topology constraint selects other pods")
        if thing["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if f"{target['kind']}/{target['name']}" not in map(name_of, things):
                found.append(f"{name_of(thing)}: the target does not exist")
    return found


def peer_errors(things, spec, configuration):
    """`peer_host` is a headless Service that has the addresses of all replicas."""
    name = configuration.get("peer_host")
    if name is None:
        return []
    services = [thing["spec"] for thing in things if thing["kind"] == "Service" and thing["metadata"]["name"] == name]
    if not services:
        return [f"peer_host {name}: there is no such Service"]
    found = []
    if services[0].get("clusterIP") != "None":
        found.append(f"peer_host {name}: the Service is not headless")
    if services[0].get("publishNotReadyAddresses") is not True:
        found.append(f"peer_host {name}: the Service lacks replicas that drain")
    if services[0]["ports"][0]["port"] not in configuration.ports():
        found.append(f"peer_host {name}: wrong port")
    return found


def errors(things, file_text=None, new_fields=False):
    """All rules. `file_text` is the configuration file of poolers that have one."""
    found = [error for thing in things for error in schema_errors(thing, new_fields)] + service_errors(things)
    for thing in things:
        if not pod_of(thing):
            continue
        _, spec = pod_of(thing)
        problems = restricted_errors(spec) + hardening_errors(spec)
        if not poolers(spec):
            problems.append("has no pooler")
        for container, is_sidecar in poolers(spec):
            configuration = Configuration(container, file_text if container.get("args") else None)
            problems += probe_errors(container, is_sidecar, configuration) + port_errors(container, configuration)
            problems += variable_errors(container) + drain_errors(spec, configuration) + peer_errors(things, spec, configuration)
        found += [f"{name_of(thing)}: {problem}" for problem in problems]
    return found
