"""The dashboard and the alert rules: names, labels, links, and the copies in the chart. tests/it/deploy/monitoring.rs runs them in a
real Prometheus."""

import json
import re
import unittest

import common
import yaml
from test_helm import CHART, of_kind, render, scenario

MONITORING = common.DEPLOY / "monitoring"
BOARD = MONITORING / "grafana-dashboard.json"
ALERTS = MONITORING / "alerts.yaml"
# Helm reads no file outside of the chart.
COPIES = {BOARD: CHART / "dashboards/iambouncer.json", ALERTS: CHART / "rules/alerts.yaml"}
RUNBOOKS = "https://github.com/iambouncer/iambouncer/blob/main/"
REASON = "{{ $labels.reason }}"


def rules():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


class Copies(unittest.TestCase):
    def test_the_chart_has_the_same_files(self):
        for original, copy in COPIES.items():
            if common.updates_docs():
                copy.write_text(original.read_text())
            self.assertEqual(copy.read_text(), original.read_text(), f"UPDATE_DOCS=1 tools/deploy-checks copies {original.name}")

    def test_the_chart_renders_them(self):
        things, _ = render(scenario("monitoring"))
        [config_map] = of_kind(things, "ConfigMap")
        self.assertEqual(json.loads(config_map["data"]["iambouncer.json"]), json.loads(BOARD.read_text()))
        self.assertEqual(config_map["metadata"]["labels"]["grafana_dashboard"], "1")
        [rule] = of_kind(things, "PrometheusRule")
        self.assertEqual(rule["spec"], yaml.safe_load(ALERTS.read_text()))
        self.assertEqual(rule["metadata"]["labels"]["release"], "prometheus")


class Alerts(unittest.TestCase):
    def test_every_metric_exists(self):
        for rule in rules():
            used = set(re.findall(r"\b(iambouncer_[a-z0-9_]+)", rule["expr"]))
            self.assertTrue(used, rule["alert"])
            self.assertEqual(used - common.metrics(), set(), rule["alert"])

    def test_every_alert_says_what_to_do_and_where_that_is_described(self):
        for rule in rules():
            with self.subTest(rule["alert"]):
                self.assertIn(rule["labels"]["severity"], {"critical", "warning"})
                texts = rule["annotations"]
                self.assertEqual(set(texts), {"summary", "description", "runbook_url"})
                for text in (texts["summary"], texts["description"]):
                    self.assertRegex(text, r"\.$")
                path, _, fragment = texts["runbook_url"].removeprefix(RUNBOOKS).partition("#")
                page = common.ROOT / path
                if fragment != REASON:
                    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
                    self.assertIn(fragment, map(common.anchor, headings))

    def test_the_runbook_of_failed_logins_has_every_reason(self):
        metrics = (common.ROOT / "docs/metrics.md").read_text()
        reasons = re.findall(r"^\| `([a-z_]+)` \| (IAM\d+) \|", metrics, re.MULTILINE)
        self.assertGreater(len(reasons), 30)
        page = (common.ROOT / "docs/pam-authentication-failed.md").read_text()
        for reason, number in reasons:
            self.assertRegex(page, rf'<a id="{reason}"></a>.*\n\n### {number}: ')
        # That of counters without a known label.
        self.assertIn('<a id="unknown"></a>', page)

    def test_every_alert_is_tested(self):
        tests = {test["name"]: test for test in yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]}
        self.assertEqual(set(tests), {rule["alert"] for rule in rules()} | {"the normal state"})
        normal = tests["the normal state"]
        self.assertTrue(all(test["exp_samples"] == [] for test in normal["promql_expr_test"]))
        metrics = " ".join(series["series"] for series in normal["input_series"])
        for rule in rules():
            expected = [test["exp_samples"] for test in tests[rule["alert"]]["promql_expr_test"]]
            firing = {"labels": f'{{alertname="{rule["alert"]}"}}', "value": 1}
            self.assertEqual(expected, [[], [firing]], rule["alert"])
            for name in re.findall(r"\b(iambouncer_[a-z0-9_]+)", rule["expr"]):
                self.assertIn(f"{name}{{", metrics, "a normal value of the metric")

    def test_every_alert_is_in_the_readme(self):
        text = (MONITORING / "README.md").read_text()
        found = re.findall(r"^### (Iambouncer\w+)$", text, re.MULTILINE)
        self.assertEqual(found, [rule["alert"] for rule in rules()])


class Dashboard(unittest.TestCase):
    board = json.loads(BOARD.read_text())

    def expressions(self):
        queries = [target["expr"] for panel in self.board["panels"] for target in panel.get("targets", [])]
        return queries + [variable["query"]["query"] for variable in self.board["templating"]["list"] if variable["type"] == "query"]

    def test_every_metric_exists(self):
        self.assertGreater(len(self.expressions()), 30)
        for expression in self.expressions():
            used = set(re.findall(r"\b(iambouncer_[a-z0-9_]+)", expression))
            self.assertTrue(used, expression)
            self.assertEqual(used - common.metrics(), set(), expression)

    def test_labels_exist(self):
        """Labels of each selector and of `by` are those of docs/metrics.md, or added by Prometheus."""
        text = (common.ROOT / "docs/metrics.md").read_text()
        labels = {name: set(re.findall(r"`([a-z_]+)`", found))
                  for name, found in re.findall(r"^\| `(iambouncer_[a-z0-9_]+)` \| \w+ \| ([^|]*)\|", text, re.MULTILINE)}
        for expression in self.expressions():
            [name, *others] = re.findall(r"\b(iambouncer_[a-z0-9_]+?)(?:_bucket|_sum|_count)?\b", expression)
            known = labels[name] | {"job", "instance", "le"}
            known |= {label for other in others for label in labels[other]}
            used = set(re.findall(r'([a-z_]+)=~?"', expression))
            used |= {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.replace(" ", "").split(",")}
            self.assertEqual(used - known, set(), expression)

    def test_panels_have_their_own_numbers_and_places(self):
        panels = self.board["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        places = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            self.assertEqual(places & cells, set(), panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            places |= cells


if __name__ == "__main__":
    unittest.main()
