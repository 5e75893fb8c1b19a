"""The task definition for ECS."""

import json
import unittest

import common
import jsonschema

PATH = common.DEPLOY / "ecs/task-definition.json"
SCHEMA = json.loads((common.SCHEMAS / "ecs-task-definition.json").read_text())
# Memory in MiB that Fargate offers for a number of CPU units: from, to, step.
FARGATE_MEMORY = {
    "256": (512, 2048, 512), "512": (1024, 4096, 1024), "1024": (2048, 8192, 1024), "2048": (4096, 16384, 1024),
    "4096": (8192, 30720, 1024), "8192": (16384, 61440, 4096), "16384": (32768, 122880, 8192),
}


def errors(task):
    """What is wrong with the task definition."""
    found = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(task)]
    if found:
        return found
    low, high, step = FARGATE_MEMORY[task["cpu"]]
    if not (low <= int(task["memory"]) <= high and (int(task["memory"]) - low) % step == 0):
        found.append(f"memory {task['memory']} is not offered for cpu {task['cpu']}")
    containers = {container["name"]: container for container in task["containerDefinitions"]}
    for name, container in containers.items():
        for dependency in container.get("dependsOn", []):
            other = containers.get(dependency["containerName"])
            if other is None:
                found.append(f"{name}: depends on {dependency['containerName']}, which does not exist")
            elif dependency["condition"] == "HEALTHY" and "healthCheck" not in other:
                found.append(f"{name}: waits for the health of {other['name']}, which has no check")
    for container in containers.values():
        if container["image"].startswith(common.IMAGE + ":"):
            found += pooler_errors(container)
    if "taskRoleArn" not in task:
        found.append("no identity signs tokens")
    return found


def pooler_errors(container):
    found = []
    variables = {variable["name"]: variable["value"] for variable in container["environment"]}
    found += [f"unknown variable {name}" for name in variables if name not in common.variables()]
    if container.get("healthCheck", {}).get("command") != ["CMD", "/iambouncer", "healthcheck"]:
        found.append("healthCheck does not run the program")
    if container.get("stopTimeout", 30) <= float(variables.get("IAMBOUNCER_DRAIN_MAX_SECONDS", common.DEFAULT_DRAIN_MAX_SECONDS)):
        found.append("stopTimeout is not longer than drain_max_seconds")
    if container.get("user") != f"{common.IMAGE_USER}:{common.IMAGE_USER}" or not container.get("readonlyRootFilesystem"):
        found.append("the container can write files or is another user")
    return found


class Ecs(unittest.TestCase):
    task = json.loads(PATH.read_text())

    def test_the_task_definition_is_valid(self):
        self.assertEqual(errors(self.task), [])

    def test_the_application_waits_for_the_pooler(self):
        by_name = {container["name"]: container for container in self.task["containerDefinitions"]}
        self.assertEqual(by_name["application"]["dependsOn"], [{"containerName": "iambouncer", "condition": "HEALTHY"}])
        self.assertTrue(by_name["iambouncer"]["essential"])

    def test_a_broken_task_definition_is_reported(self):
        pooler = ("containerDefinitions", 0)
        for expected, path, value in (
            ("readOnlyRootFilesystem", (*pooler, "readOnlyRootFilesystem"), True),
            ("interval", (*pooler, "healthCheck", "interval"), 1),
            ("stopTimeout", (*pooler, "stopTimeout"), 121),
            ("stopTimeout is not longer", (*pooler, "stopTimeout"), 25),
            ("does not run the program", (*pooler, "healthCheck", "command"), ["CMD", "curl", "localhost"]),
            ("which has no check", (*pooler, "healthCheck"), None),
            ("does not exist", (*pooler, "name"), "pooler"),
            ("unknown variable RDS_HOTS", (*pooler, "environment", 0, "name"), "RDS_HOTS"),
            ("another user", (*pooler, "user"), "0"),
            ("condition", ("containerDefinitions", 1, "dependsOn", 0, "condition"), "READY"),
            ("is not offered", ("memory",), "8192"),
            ("no identity", ("taskRoleArn",), None),
            ("cpu", ("cpu",), 512),
        ):
            with self.subTest(expected):
                task = common.replaced(self.task, path, value)
                self.assertTrue(any(expected in error for error in errors(task)), errors(task))


if __name__ == "__main__":
    unittest.main()
