"""The rules fail: each change of a valid manifest must be reported."""

import unittest

import common
import rules
from test_kubernetes import CENTRAL, FOLDER, central


def change(things, kind, path, value):
    """A copy in which one field of the object of this kind is replaced; None removes it."""
    at = next(index for index, thing in enumerate(things) if thing["kind"] == kind)
    return common.replaced(things, (at, *path), value)


POD = ("spec", "template", "spec")
SIDECAR = (*POD, "initContainers", 0)
CONTAINER = (*POD, "containers", 0)
HTTP = {"path": "/liveness", "port": "http"}


class Rules(unittest.TestCase):
    def test_a_broken_sidecar_is_reported(self):
        valid = common.documents(FOLDER / "sidecar.yaml")
        for expected, path, value in (
            ("livnessProbe", (*SIDECAR, "livnessProbe"), {"httpGet": HTTP}),
            ("startupProbe is missing", (*SIDECAR, "startupProbe"), None),
            ("livenessProbe is missing", (*SIDECAR, "livenessProbe"), None),
            ("wrong path /readiness", (*SIDECAR, "livenessProbe", "httpGet", "path"), "/readiness"),
            ("does not serve port 9128", (*SIDECAR, "livenessProbe", "httpGet", "port"), 9128),
            ("does not use HTTP", (*SIDECAR, "livenessProbe"), {"tcpSocket": {"port": 6432}}),
            ("http_addr is not *", (*SIDECAR, "env", 4, "value"), "127.0.0.1"),
            ("unknown variable RDS_HOTS", (*SIDECAR, "env", 0, "name"), "RDS_HOTS"),
            ("unknown variable IAMBOUNCER_POOLMODE", (*SIDECAR, "env", 4, "name"), "IAMBOUNCER_POOLMODE"),
            ("port 6433 is not served", (*SIDECAR, "ports", 0, "containerPort"), 6433),
            ("not longer than drain_max_seconds", (*POD, "terminationGracePeriodSeconds"), 25),
            ("root file system can be written", (*SIDECAR, "securityContext", "readOnlyRootFilesystem"), False),
            ("not the user of the image", (*SIDECAR, "securityContext", "runAsUser"), 1000),
            ("allowPrivilegeEscalation", (*SIDECAR, "securityContext", "allowPrivilegeEscalation"), None),
            ("capabilities are not dropped", (*SIDECAR, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}),
            ("capabilities are added", (*SIDECAR, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
            ("no seccomp profile", (*POD, "securityContext", "seccompProfile"), None),
            ("runAsNonRoot", (*POD, "securityContext", "runAsNonRoot"), None),
            ("runs as root", (*CONTAINER, "securityContext", "runAsUser"), 0),
            ("is privileged", (*CONTAINER, "securityContext", "privileged"), True),
            ("hostNetwork", (*POD, "hostNetwork"), True),
            ("hostPath", (*POD, "volumes"), [{"name": "host", "hostPath": {"path": "/"}}]),
            ("host port", (*SIDECAR, "ports", 0, "hostPort"), 6432),
            ("token of the Kubernetes API", (*POD, "automountServiceAccountToken"), None),
            ("has no pooler", (*SIDECAR, "image"), "pgbouncer:1"),
            ("readinessProbe is missing", (*SIDECAR, "restartPolicy"), None),
            ("does not select its own pods", ("spec", "selector", "matchLabels"), {"app": "other"}),
        ):
            with self.subTest(expected):
                found = rules.errors(change(valid, "Deployment", path, value))
                self.assertTrue(any(expected in error for error in found), found)

    def test_a_broken_central_pooler_is_reported(self):
        text = (CENTRAL / "pgbouncer.ini").read_text()
        for expected, kind, path, value in (
            ("readinessProbe is missing", "Deployment", (*CONTAINER, "readinessProbe"), None),
            ("not longer than drain_max_seconds", "Deployment", (*POD, "terminationGracePeriodSeconds"), 55),
            ("topology constraint", "Deployment", (*POD, "topologySpreadConstraints", 0, "labelSelector", "matchLabels"), {"a": "b"}),
            ("no container has port pg", "Service", ("spec", "ports", 0, "targetPort"), "pg"),
            ("no container has port", "Service", ("spec", "selector"), {"app": "other"}),
            ("selects no pod", "PodDisruptionBudget", ("spec", "selector", "matchLabels"), {"app": "other"}),
            ("selects no pod", "NetworkPolicy", ("spec", "podSelector", "matchLabels"), {"app": "other"}),
            ("the target does not exist", "HorizontalPodAutoscaler", ("spec", "scaleTargetRef", "name"), "other"),
            ("maxReplica", "HorizontalPodAutoscaler", ("spec", "maxReplica"), 3),
        ):
            with self.subTest(expected):
                found = rules.errors(change(central(), kind, path, value), text, new_fields=True)
                self.assertTrue(any(expected in error for error in found), found)

    def test_peers_need_a_headless_service_with_all_replicas(self):
        text = (CENTRAL / "pgbouncer.ini").read_text()
        for expected, spec in (
            ("there is no such Service", None),
            ("not headless", {"clusterIP": None}),
            ("lacks replicas", {"publishNotReadyAddresses": False}),
        ):
            things = central()
            peers = next(thing for thing in things if thing["metadata"]["name"] == "iambouncer-peers")
            if spec is None:
                things.remove(peers)
            else:
                peers["spec"].update(spec)
            found = rules.errors(things, text, new_fields=True)
            self.assertTrue(any(expected in error for error in found), found)

    def test_a_file_without_a_drain_limit_is_reported(self):
        lines = [line for line in (CENTRAL / "pgbouncer.ini").read_text().splitlines() if not line.startswith("drain_max")]
        found = rules.errors(central(), "\n".join(lines), new_fields=True)
        self.assertTrue(any("drain_max_seconds is not set" in error for error in found), found)

    def test_a_field_is_new_only_where_it_is_new(self):
        [service] = common.documents(CENTRAL / "service.yaml")
        self.assertTrue(any("1.29" in error for error in rules.schema_errors(service)))
        self.assertEqual(rules.schema_errors(service, new_fields=True), [])


if __name__ == "__main__":
    unittest.main()
