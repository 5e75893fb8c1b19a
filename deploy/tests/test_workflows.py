"""The workflows of GitHub."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import common
import yaml

FILES = sorted((common.ROOT / ".github/workflows").glob("*.yml"))


def load(path):
    # YAML 1.1, which the parser follows, reads the key `on` as true.
    content = yaml.safe_load(path.read_text())
    content["on"] = content.pop(True)
    return content


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


class Workflows(unittest.TestCase):
    def test_the_files_are_valid_and_a_broken_one_is_not(self):
        self.assertEqual([path.name for path in FILES], ["ci.yml", "release.yml"])
        common.schema_check(self, "vendor.github-workflows", *FILES)
        broken = load(FILES[0])
        broken["jobs"]["lint"]["run-on"] = broken["jobs"]["lint"].pop("runs-on")
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "workflow.json"
            file.write_text(json.dumps(broken))
            with self.assertRaises(AssertionError):
                common.schema_check(self, "vendor.github-workflows", file)

    def test_permissions_are_minimal(self):
        for path in FILES:
            workflow = load(path)
            self.assertEqual(workflow["permissions"], {"contents": "read"})
            writers = {name: job["permissions"] for name, job in workflow["jobs"].items() if "write" in job.get("permissions", {}).values()}
            for name, permissions in writers.items():
                written = [scope for scope, level in permissions.items() if level == "write"]
                self.assertEqual(written, ["contents"] if name == "release" else ["packages"], name)
            if path.name == "ci.yml":
                self.assertEqual(writers, {})

    def test_actions_have_a_version_and_checkouts_keep_no_credentials(self):
        for path in FILES:
            for step in steps(load(path)):
                if "uses" in step:
                    self.assertRegex(step["uses"], r"^[\w-]+/[\w-]+@v\d+\.\d+\.\d+$")
                    if step["uses"].startswith("actions/checkout@"):
                        self.assertIs(step["with"]["persist-credentials"], False)

    def test_every_job_has_a_time_limit(self):
        for path in FILES:
            for name, job in load(path)["jobs"].items():
                self.assertIn("timeout-minutes", job, name)

    def test_scripts_can_be_parsed_and_contain_no_expressions(self):
        for path in FILES:
            for step in steps(load(path)):
                if "run" in step:
                    # An expression would be replaced in the text of the script, which allows code in names of branches.
                    self.assertNotIn("${{", step["run"])
                    subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)

    def test_what_they_run_exists(self):
        makefile = (common.ROOT / "Makefile").read_text()
        targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
        for path in FILES:
            for step in steps(load(path)):
                for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                    self.assertIn(target, targets)
                for file in re.findall(r"(?:tools|\.ci)/[a-z-]+", step.get("run", "")):
                    self.assertTrue((common.ROOT / file).exists(), file)

    def test_the_release_publishes_the_images_of_the_manifests(self):
        workflow = load(common.ROOT / ".github/workflows/release.yml")
        registry, owner = workflow["env"]["REGISTRY"], workflow["env"]["OWNER"]
        images = workflow["jobs"]["images"]["strategy"]["matrix"]["image"]
        names = {f"{registry}/{owner}/{image['name']}:*{image['suffix']}" for image in images}
        self.assertEqual(names, {f"{common.IMAGE}:*", f"{common.IMAGE}:*-debug", "ghcr.io/iambouncer/rds-sim:*"})

    def test_needed_jobs_exist(self):
        for path in FILES:
            jobs = load(path)["jobs"]
            for name, job in jobs.items():
                needs = job.get("needs", [])
                for other in [needs] if isinstance(needs, str) else needs:
                    self.assertIn(other, jobs, name)


if __name__ == "__main__":
    unittest.main()
