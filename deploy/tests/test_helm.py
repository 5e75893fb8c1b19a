"""The chart: rendered by Helm for each file in ci, and with values that must be refused."""

import copy
import json
import re
import unittest

import common
import helm_python as helm
import rules
import yaml
from test_kubernetes import check_configuration

CHART = common.DEPLOY / "helm/iambouncer"
SCENARIOS = sorted(CHART.glob("ci/*-values.yaml"))
TABLE_BEGIN = "Do not edit below this line. -->\n"


def values_of(path):
    return yaml.safe_load(path.read_text()) or {}


def scenario(name):
    return values_of(CHART / f"ci/{name}-values.yaml")


def render(values):
    """The objects, and the notes for the user."""
    with helm.Chart.load(CHART) as chart:
        manifests = chart.render(values, name="demo", namespace="database")
    notes = next(text for path, text in manifests.items() if path.endswith("NOTES.txt"))
    texts = [text for path, text in manifests.items() if not path.endswith("NOTES.txt")]
    return [thing for text in texts for thing in yaml.safe_load_all(text) if thing], notes


def of_kind(things, kind):
    return [thing for thing in things if thing["kind"] == kind]


def pod(things):
    return of_kind(things, "Deployment")[0]["spec"]["template"]["spec"]


def variables(things):
    return {variable["name"]: variable.get("value") for variable in pod(things)["containers"][0]["env"]}


def merged(values, **changes):
    """The values with some replaced; "a__b" is b in a."""
    values = copy.deepcopy(values)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return values


class Scenarios(unittest.TestCase):
    def test_every_scenario_follows_the_rules(self):
        self.assertGreater(len(SCENARIOS), 6)
        for path in SCENARIOS:
            with self.subTest(path.name):
                things, _ = render(values_of(path))
                files = [thing["data"]["pgbouncer.ini"] for thing in of_kind(things, "ConfigMap") if "pgbouncer.ini" in thing.get("data", {})]
                # A file that the chart does not make has no settings that the rules need.
                self.assertEqual(rules.errors(things, files[0] if files else "", new_fields=True), [])

    def test_lint_finds_nothing(self):
        for path in SCENARIOS:
            with self.subTest(path.name):
                for version in ("v1.29.0", "v1.32.0"):
                    report = helm.lint(CHART, values_of(path), strict=True, kube_version=version)
                    self.assertEqual(report["errors"], [])
                    found = [message["error"] for message in report["messages"]]
                    self.assertEqual(found, ["icon is recommended"])

    def test_names_of_objects_are_unique_and_those_of_the_release(self):
        for path in SCENARIOS:
            with self.subTest(path.name):
                values = values_of(path)
                things, _ = render(values)
                names = [rules.name_of(thing) for thing in things]
                self.assertEqual(len(names), len(set(names)))
                expected = (values.get("fullnameOverride", "demo"), "demo", values.get("serviceAccount", {}).get("name", "demo"))
                self.assertTrue(all(thing["metadata"]["name"].startswith(expected) for thing in things), names)

    def test_long_names_are_shortened(self):
        things, _ = render(merged(scenario("monitoring"), fullnameOverride="a" * 63))
        self.assertTrue(all(len(thing["metadata"]["name"]) <= 63 for thing in things))
        self.assertEqual(rules.errors(things, "", new_fields=True), [])

    @unittest.skipUnless(common.program(), "IAMBOUNCER is not set")
    def test_the_program_accepts_the_rendered_file_and_variables(self):
        for path in SCENARIOS:
            with self.subTest(path.name):
                things, _ = render(values_of(path))
                for config_map in of_kind(things, "ConfigMap"):
                    if "pgbouncer.ini" in config_map.get("data", {}):
                        check_configuration(self, config_map["data"]["pgbouncer.ini"], variables(things))


class Values(unittest.TestCase):
    minimal = scenario("minimal")

    def assert_refused(self, text, values):
        with self.assertRaises(helm.HelmError) as caught:
            with helm.Chart.load(CHART) as chart:
                chart.validate_schema(values)
            render(values)
        self.assertRegex(str(caught.exception), text)

    def test_misspelt_values_are_refused(self):
        # A path for each object of the chart itself.
        with helm.Chart.load(CHART) as chart:
            schema = chart.schema
        closed = [()] + [(name,) for name, part in schema["properties"].items() if part.get("additionalProperties") is False]
        self.assertGreater(len(closed), 12)
        for path in closed:
            with self.subTest(path):
                self.assert_refused("misspelt", merged(self.minimal, **{"__".join((*path, "misspelt")): 1}))

    def test_wrong_values_are_refused(self):
        base, central = self.minimal, scenario("central")
        for text, values in (
            ("replicaCount", merged(base, replicaCount="two")),
            ("port", merged(base, database__port=70000)),
            ("digest", merged(base, image__digest="sha256:abc")),
            ("pullPolicy", merged(base, image__pullPolicy="Sometimes")),
            ("type", merged(base, service__type="Cluster")),
            ("region", merged(base, database__region="Ireland")),
            ("workers", merged(base, workers="many")),
            ("databaseCidrs", merged(base, networkPolicy__databaseCidrs=["10.0.0.0"])),
            ("exactly one", {}),
            ("exactly one", merged(central, database__host="db.example.com")),
            ("exactly one", merged(central, existingConfigMap__name="other")),
            ("database.name", {"database": {"host": "db.example.com", "user": "app"}, "authType": "any"}),
            ("database.user", {"database": {"host": "db.example.com", "name": "app"}, "authType": "any"}),
            ("authFile", {"database": base["database"]}),
            ("longer than drain.maxSeconds", merged(base, terminationGracePeriodSeconds=55)),
            ("drain.minSeconds", merged(base, drain__minSeconds=56)),
            ("listen_port", merged(central, config__pgbouncer__listen_port=5432)),
            ("peer_host", merged(central, config__pgbouncer__peer_host="others")),
            ("auth_file", merged(central, config__pgbouncer__auth_file="/etc/users")),
            ("minReplicas", merged(base, autoscaling={"enabled": True, "minReplicas": 7})),
        ):
            with self.subTest(text):
                self.assert_refused(re.escape(text), values)

    def test_the_grace_period_follows_the_drain(self):
        for values, expected in (
            (self.minimal, 60),
            (merged(self.minimal, drain__maxSeconds=300), 305),
            (merged(self.minimal, terminationGracePeriodSeconds=90), 90),
        ):
            self.assertEqual(pod(render(values)[0])["terminationGracePeriodSeconds"], expected)

    def test_the_configuration_is_rendered_as_given(self):
        things, _ = render(scenario("central"))
        rendered = common.ini(of_kind(things, "ConfigMap")[0]["data"]["pgbouncer.ini"])
        self.assertEqual(rendered["pgbouncer"]["max_packet_size"], "16777216")
        self.assertEqual(rendered["pgbouncer"]["log_connections"], "0")
        self.assertEqual(rendered["users"], {"reports": "pool_mode=session"})
        self.assertEqual(rendered["databases"]["app"], scenario("central")["config"]["databases"]["app"])

    def test_a_changed_configuration_replaces_the_pods(self):
        def checksum(values):
            return of_kind(render(values)[0], "Deployment")[0]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

        central = scenario("central")
        self.assertEqual(checksum(central), checksum(central))
        self.assertNotEqual(checksum(central), checksum(merged(central, config__pgbouncer__default_pool_size=21)))

    def test_clients_log_in_with_the_secret_if_there_is_one(self):
        things, _ = render(scenario("pod-identity"))
        self.assertEqual(variables(things)["IAMBOUNCER_AUTH_TYPE"], "scram-sha-256")
        path = variables(things)["IAMBOUNCER_AUTH_FILE"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod(things)["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod(things)["volumes"]}
        directory, file = path.rsplit("/", 1)
        self.assertEqual(volumes[mounts[directory]]["secret"]["secretName"], "iambouncer-users")
        self.assertEqual(file, "userlist.txt")
        things, notes = render(self.minimal)
        self.assertEqual(variables(things)["IAMBOUNCER_AUTH_TYPE"], "any")
        self.assertIn("Every client that can connect", notes)

    def test_identity(self):
        things, notes = render(scenario("irsa"))
        [account] = of_kind(things, "ServiceAccount")
        self.assertIn("eks.amazonaws.com/role-arn", account["metadata"]["annotations"])
        self.assertEqual(pod(things)["serviceAccountName"], account["metadata"]["name"])
        self.assertEqual(variables(things)["AWS_REGION"], "eu-west-1")
        self.assertNotIn("create-pod-identity-association", notes)
        things, _ = render(scenario("pod-identity"))
        self.assertEqual(of_kind(things, "ServiceAccount"), [])
        self.assertEqual(pod(things)["serviceAccountName"], "iambouncer")
        self.assertIn("create-pod-identity-association", render(self.minimal)[1])

    def test_images(self):
        def image(values):
            return pod(render(values)[0])["containers"][0]["image"]

        with helm.Chart.load(CHART) as chart:
            self.assertEqual(image(self.minimal), f"{common.IMAGE}:{chart.metadata['appVersion']}")
        self.assertEqual(image(scenario("debug")), f"{common.IMAGE}:0.1.0-debug")
        self.assertRegex(image(scenario("irsa")), f"^{common.IMAGE}@sha256:")

    def test_a_template_leaves_out_what_is_not_enabled(self):
        optional = {"HorizontalPodAutoscaler", "NetworkPolicy", "PodMonitor", "PrometheusRule", "ConfigMap"}
        things, _ = render(self.minimal)
        self.assertEqual({thing["kind"] for thing in things} & optional, set())
        self.assertEqual(of_kind(things, "Deployment")[0]["spec"]["replicas"], 2)
        things, _ = render(scenario("autoscaling"))
        self.assertNotIn("replicas", of_kind(things, "Deployment")[0]["spec"])
        self.assertEqual(len(of_kind(render(scenario("existing-config"))[0], "Service")), 1)

    def test_the_network_policy_permits_what_the_pooler_needs(self):
        [policy] = of_kind(render(scenario("autoscaling"))[0], "NetworkPolicy")
        egress = {(port["protocol"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}
        self.assertLessEqual({("UDP", 53), ("TCP", 53), ("TCP", 6432), ("TCP", 5432), ("TCP", 443), ("TCP", 80)}, egress)
        ingress = [(rule["from"], rule["ports"][0]["port"]) for rule in policy["spec"]["ingress"]]
        self.assertEqual([port for _, port in ingress], [6432, 6432, 9127])
        self.assertEqual(ingress[0][0], scenario("autoscaling")["networkPolicy"]["clients"])


class Documentation(unittest.TestCase):
    def table(self):
        """The table of values, from the comments in values.yaml."""
        rows, path, comment = [], [], None
        for line in (CHART / "values.yaml").read_text().splitlines():
            indent = len(line) - len(line.lstrip())
            if line.strip().startswith("# -- "):
                comment = line.strip().removeprefix("# -- ")
            elif match := re.match(r"\s*([A-Za-z]+):(.*)", line):
                path = path[: indent // 2] + [match[1]]
                if comment is not None:
                    value = self.default(path)
                    rows.append(f"| `{'.'.join(path)}` | {value} | {comment} |")
                    comment = None
        return "\n| Value | Default | Meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"

    def default(self, path):
        value = yaml.safe_load((CHART / "values.yaml").read_text())
        for key in path:
            value = value[key]
        if value in ("", None):
            return ""
        return "see `values.yaml`" if isinstance(value, (dict, list)) and value else f"`{json.dumps(value)}`".replace('"', "")

    def test_the_readme_has_the_values(self):
        readme = CHART / "README.md"
        begin, _ = readme.read_text().split(TABLE_BEGIN)
        expected = begin + TABLE_BEGIN + self.table()
        if common.updates_docs():
            readme.write_text(expected)
        self.assertEqual(readme.read_text(), expected)

    def test_every_value_has_a_comment_and_a_schema(self):
        with helm.Chart.load(CHART) as chart:
            properties, values = chart.schema["properties"], chart.values
        self.assertEqual(set(properties) - {"global"}, set(values))
        documented = set(re.findall(r"^\| `([A-Za-z.]+)`", self.table(), re.MULTILINE))
        for name, value in values.items():
            if properties[name].get("additionalProperties") is False and isinstance(value, dict) and value and name not in documented:
                self.assertEqual(set(properties[name]["properties"]), set(value))
                self.assertLessEqual({f"{name}.{key}" for key in value}, documented)
            else:
                self.assertIn(name, documented)

    def test_names_in_the_notes_exist(self):
        for path in SCENARIOS:
            things, notes = render(values_of(path))
            [host] = set(re.findall(r"connect to (\S+)\.database\.svc", notes))
            self.assertIn(host, [thing["metadata"]["name"] for thing in of_kind(things, "Service")])


if __name__ == "__main__":
    unittest.main()
