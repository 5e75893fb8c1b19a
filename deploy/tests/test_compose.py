"""The services for Docker Compose."""

import json
import pathlib
import re
import tempfile
import unittest

import common
import yaml

PATH = common.DEPLOY / "compose/compose.yaml"


class Compose(unittest.TestCase):
    services = yaml.safe_load(PATH.read_text())["services"]

    def test_the_file_is_valid_and_a_broken_one_is_not(self):
        common.schema_check(self, "vendor.compose-spec", PATH)
        broken = yaml.safe_load(PATH.read_text())
        broken["services"]["pooler"]["enviroment"] = {}
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "compose.json"
            file.write_text(json.dumps(broken))
            with self.assertRaisesRegex(AssertionError, "enviroment"):
                common.schema_check(self, "vendor.compose-spec", file)

    def test_variables_of_the_pooler_are_known(self):
        self.assertEqual(set(self.services["pooler"]["environment"]) - common.variables(), set())

    def test_options_of_the_simulator_exist(self):
        source = (common.ROOT / "crates/rds-sim/src/main.rs").read_text()
        # A field of the command line is an option unless a name is given.
        known = set(re.findall(r'long = "([a-z-]+)"', source))
        known |= {name.replace("_", "-") for name in re.findall(r"^    ([a-z_]+): ", source, re.MULTILINE)}
        used = {option.split("=")[0].removeprefix("--") for option in self.services["database"]["command"]}
        self.assertEqual(used - known, set())

    def test_the_pooler_signs_what_the_simulator_accepts(self):
        options = dict(option.removeprefix("--").split("=", 1) for option in self.services["database"]["command"])
        variables = self.services["pooler"]["environment"]
        self.assertEqual(options["host"], variables["RDS_HOST"])
        self.assertIn(options["host"], self.services["database"]["networks"]["default"]["aliases"])
        self.assertEqual(options["region"], variables["AWS_REGION"])
        self.assertEqual(options["iam-user"], variables["DB_USERNAME"])
        self.assertEqual(options["static-key"], f"{variables['AWS_ACCESS_KEY_ID']}:{variables['AWS_SECRET_ACCESS_KEY']}")
        self.assertEqual(options["ca-out"], variables["IAMBOUNCER_SERVER_TLS_CA_FILE"])
        self.assertEqual(self.services["postgres"]["environment"]["POSTGRES_DB"], variables["DB_NAME"])

    def test_only_the_pooler_can_be_reached_and_only_from_this_machine(self):
        published = {name: service["ports"] for name, service in self.services.items() if "ports" in service}
        self.assertEqual(published, {"pooler": ["127.0.0.1:6432:6432"]})
        self.assertEqual(self.services["postgres"]["networks"], ["behind"])

    def test_services_wait_for_what_they_need(self):
        for name, service in self.services.items():
            for other, dependency in service.get("depends_on", {}).items():
                with self.subTest(f"{name}: {other}"):
                    self.assertIn(other, self.services)
                    if dependency["condition"] == "service_healthy":
                        self.assertIn("healthcheck", self.services[other])

    def test_the_readme_has_the_answer(self):
        query = self.services["client"]["command"][-1]
        self.assertIn("hello", query)
        self.assertIn("hello, app", (PATH.parent / "README.md").read_text())


if __name__ == "__main__":
    unittest.main()
