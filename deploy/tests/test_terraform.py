"""The Terraform module. Terraform itself is not available here: files are parsed, references are checked, and checkov runs."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import common
import hcl2

MODULE = common.DEPLOY / "terraform"
EXAMPLES = sorted((MODULE / "examples").glob("*/main.tf"))
# Arguments of resources that the module replaces, as the AWS provider documents them.
PROXY_ARGUMENTS = {
    "auth", "debug_logging", "default_auth_scheme", "endpoint_network_type", "engine_family", "idle_client_timeout", "name", "require_tls",
    "role_arn", "tags", "target_connection_network_type", "vpc_security_group_ids", "vpc_subnet_ids",
    "connection_pool_config", "db_instance_identifier", "db_cluster_identifier",
}
AUTH_FIELDS = {"auth_scheme", "client_password_auth_type", "description", "iam_auth", "secret_arn", "username"}
POOL_FIELDS = {"connection_borrow_timeout", "init_query", "max_connections_percent", "max_idle_connections_percent", "session_pinning_filters"}


def unquoted(text):
    return text.strip('"')


def load(path):
    with open(path) as file:
        return hcl2.load(file)


def blocks(parsed, kind):
    """Blocks with one label, by this label."""
    return {unquoted(label): body for block in parsed.get(kind, []) for label, body in block.items() if not label.startswith("__")}


def resources(parsed, kind):
    """Blocks with two labels, as "type.name"."""
    return {f"{unquoted(type_)}.{unquoted(name)}"
            for block in parsed.get(kind, []) for type_, named in block.items() if isinstance(named, dict)
            for name in named if not name.startswith("__")}


def without_texts(code):
    """The code without comments, so that references in them do not count."""
    return re.sub(r"(?m)^\s*#.*$", "", code)


def reference_errors(directory):
    """References to what the module does not declare, and variables and locals that it does not use."""
    files = {path.name: path.read_text() for path in directory.glob("*.tf")}
    parsed = [load(directory / name) for name in files]
    code = without_texts("\n".join(files.values()))
    variables = {name for part in parsed for name in blocks(part, "variable")}
    local = {name for part in parsed for block in part.get("locals", []) for name in block if not name.startswith("__")}
    declared = {name for part in parsed for name in resources(part, "resource")}
    data = {name for part in parsed for name in resources(part, "data")}
    used_variables, used_locals = set(re.findall(r"\bvar\.([a-z_0-9]+)", code)), set(re.findall(r"\blocal\.([a-z_0-9]+)", code))
    used_data = set(re.findall(r"\bdata\.([a-z_0-9]+\.[a-z_0-9]+)", code))
    used_resources = set(re.findall(r"(?<!data\.)(?<![\w.\"])(aws_[a-z_0-9]+\.[a-z_0-9]+)", code))
    return ([f"var.{name} is not declared" for name in used_variables - variables]
            + [f"local.{name} is not declared" for name in used_locals - local]
            + [f"data.{name} is not declared" for name in used_data - data]
            + [f"{name} is not declared" for name in used_resources - declared]
            + [f"local.{name} is not used" for name in local - used_locals]
            + [f"data.{name} is not used" for name in data - used_data])


class Module(unittest.TestCase):
    variables = blocks(load(MODULE / "variables.tf"), "variable")
    main = (MODULE / "main.tf").read_text()

    def test_references_are_declared(self):
        self.assertEqual(reference_errors(MODULE), [])

    def test_a_broken_reference_is_reported(self):
        for old, new in (("var.database_user", "var.database_usr"), ("local.secret_arn", "local.secret"), ("data.aws_vpc.this", "data.aws_vpc.that"),
                         ("aws_iam_role.execution.arn", "aws_iam_role.executor.arn")):
            with self.subTest(new), tempfile.TemporaryDirectory() as directory:
                for path in MODULE.glob("*.tf"):
                    shutil.copy(path, directory)
                (pathlib.Path(directory) / "main.tf").write_text(self.main.replace(old, new))
                found = reference_errors(pathlib.Path(directory))
                self.assertTrue(any("is not declared" in error for error in found), found)

    def test_arguments_are_those_of_rds_proxy(self):
        self.assertLessEqual(PROXY_ARGUMENTS, set(self.variables))
        text = (MODULE / "variables.tf").read_text()

        def fields(name):
            body = text.split(f'variable "{name}"')[1].split("object({")[1].split("})")[0]
            return set(re.findall(r"^\s+([a-z_]+)\s+=", body, re.MULTILINE))

        self.assertEqual(fields("auth"), AUTH_FIELDS)
        self.assertEqual(fields("connection_pool_config"), POOL_FIELDS)
        self.assertLessEqual({"id", "arn", "endpoint"}, set(blocks(load(MODULE / "outputs.tf"), "output")))

    def test_variables_without_an_effect_are_in_the_readme(self):
        code = without_texts(self.main + (MODULE / "outputs.tf").read_text())
        silent = {name for name in self.variables if not re.search(rf"\bvar\.{name}\b", code)} - {"engine_family"}
        self.assertEqual(silent, {"endpoint_network_type", "target_connection_network_type"})
        readme = (MODULE / "README.md").read_text()
        for name in silent:
            self.assertRegex(readme, rf"`{name}`.* \| no effect")
        for name in PROXY_ARGUMENTS | AUTH_FIELDS - {"auth_scheme"} | POOL_FIELDS:
            self.assertIn(f"`{name}`", readme)

    def test_variables_and_outputs_are_described(self):
        for name, body in (self.variables | blocks(load(MODULE / "outputs.tf"), "output")).items():
            self.assertGreater(len(body["description"]), 10, name)
        for name, body in self.variables.items():
            self.assertIn("type", body, name)

    def test_the_policy_names_one_user_of_one_database(self):
        self.assertIn('"arn:${local.partition}:rds-db:${local.region}:${local.account}:dbuser:${local.resource_id}/${var.database_user}"', self.main)
        # A statement for each use, and no resource with a star but the streams of the own log group.
        stars = re.findall(r"resources\s*=.*\*.*", self.main)
        self.assertEqual(stars, ['resources = ["${aws_cloudwatch_log_group.this.arn}:*"]'])

    def test_a_rollout_stays_within_max_connections_and_the_addresses_of_a_lookup(self):
        percent = int(re.search(r"\bdeployment_maximum_percent\s*=\s*(\d+)", self.main)[1])
        self.assertRegex(self.main, r"deployment_maximum_percent\s*=\s*local\.deployment_maximum_percent")
        self.assertIn("max_connections_percent / 100 / local.max_tasks", self.main)
        largest = int(re.search(r"var\.desired_count <= (\d+)", (MODULE / "variables.tf").read_text())[1])
        self.assertLessEqual(largest * percent / 100, 8)

    def test_variables_of_the_container_are_known(self):
        names = set(re.findall(r"\b(IAMBOUNCER_[A-Z_]+|AWS_[A-Z_]+)\s*=", self.main))
        self.assertGreater(len(names), 15)
        self.assertEqual(names - common.variables(), set())

    def test_the_container_is_that_of_the_ecs_schema(self):
        schema = json.loads((common.SCHEMAS / "ecs-task-definition.json").read_text())
        known = schema["properties"]["containerDefinitions"]["items"]["properties"]
        for container in ("files_container", "pooler_container"):
            body = self.main.split(f"{container} = {{")[1].split("\n  }\n")[0]
            keys = set(re.findall(r"^    ([A-Za-z]+)\s*=", body, re.MULTILINE))
            self.assertGreater(len(keys), 8)
            self.assertEqual(keys - set(known), set())
        self.assertIn('command     = ["CMD", "/iambouncer", "healthcheck"]', self.main)
        self.assertIn('"65532:65532"', self.main)

    def test_examples_give_arguments_that_exist_and_all_that_are_required(self):
        self.assertEqual(len(EXAMPLES), 2)
        required = {name for name, body in self.variables.items() if "default" not in body}
        for path in EXAMPLES:
            [module] = blocks(load(path), "module").values()
            given = {name for name in module if not name.startswith("__")} - {"source"}
            self.assertLessEqual(required, given)
            self.assertLessEqual(given, set(self.variables))
            self.assertEqual((path.parent / unquoted(module["source"])).resolve(), MODULE)

    def test_settings_of_examples_exist(self):
        for path in EXAMPLES:
            for name in re.findall(r"settings\s*=\s*{\s*([a-z_]+)", path.read_text()):
                self.assertIn(name, common.settings())

    def checkov(self, directory):
        command = [os.environ["CHECKOV"], "--directory", directory, "--framework", "terraform", "--skip-download", "--compact", "--output", "json"]
        result = subprocess.run(command, capture_output=True, text=True)
        return json.loads(result.stdout)

    def test_checkov_finds_nothing(self):
        report = self.checkov(MODULE)
        self.assertEqual([check["check_id"] for check in report["results"]["failed_checks"]], [])
        self.assertEqual(report["summary"]["parsing_errors"], 0)
        self.assertGreater(report["summary"]["passed"], 50)
        for check in report["results"]["skipped_checks"]:
            self.assertGreater(len(check["check_result"]["suppress_comment"]), 10)

    def test_checkov_finds_a_public_service(self):
        with tempfile.TemporaryDirectory() as directory:
            for path in MODULE.glob("*.tf"):
                text = path.read_text().replace("assign_public_ip = false", "assign_public_ip = true")
                (pathlib.Path(directory) / path.name).write_text(text)
            self.assertTrue(self.checkov(directory)["results"]["failed_checks"])


if __name__ == "__main__":
    unittest.main()
