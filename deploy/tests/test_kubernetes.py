"""The manifests in deploy/kubernetes."""

import importlib.machinery
import json
import pathlib
import subprocess
import tempfile
import types
import unittest

import common
import rules

FOLDER = common.DEPLOY / "kubernetes"
CENTRAL = FOLDER / "central"


def central():
    """The objects of the base, with the ConfigMap that Kustomize generates, without the hash in its name."""
    kustomization = common.documents(CENTRAL / "kustomization.yaml")[0]
    things = [thing for path in kustomization["resources"] for thing in common.documents(CENTRAL / path)]
    for generator in kustomization["configMapGenerator"]:
        data = {path: (CENTRAL / path).read_text() for path in generator["files"]}
        things.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    return things


def check_configuration(test, text, variables=None):
    """Has the program check a configuration file, with a list of users where the file has one."""
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        users = subprocess.run([common.program(), "hash", "--user", "orders"], input="secret\n", text=True, capture_output=True, check=True)
        (directory / "userlist.txt").write_text(users.stdout)
        variables = dict(variables or {})
        if "IAMBOUNCER_AUTH_FILE" in variables:
            variables["IAMBOUNCER_AUTH_FILE"] = str(directory / "userlist.txt")
        file = directory / "pgbouncer.ini"
        file.write_text(text.replace("/etc/iambouncer-users", str(directory)))
        result = subprocess.run([common.program(), "check", file], env=variables, capture_output=True, text=True)
        test.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        test.assertNotIn("warning", result.stdout + result.stderr)


class Kubernetes(unittest.TestCase):
    def test_sidecar_and_job_follow_the_rules(self):
        for name in ("sidecar", "job"):
            with self.subTest(name):
                self.assertEqual(rules.errors(common.documents(FOLDER / f"{name}.yaml")), [])

    def test_the_central_pooler_follows_the_rules(self):
        text = (CENTRAL / "pgbouncer.ini").read_text()
        self.assertEqual(rules.errors(central(), text, new_fields=True), [])
        self.assertEqual(rules.schema_errors(common.documents(CENTRAL / "kustomization.yaml")[0]), [])

    def test_the_central_pooler_survives_a_rollout(self):
        by_kind = {thing["kind"]: thing["spec"] for thing in central() if "spec" in thing}
        self.assertEqual(by_kind["Deployment"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0)
        # The autoscaler owns the number.
        self.assertNotIn("replicas", by_kind["Deployment"])
        self.assertGreaterEqual(by_kind["HorizontalPodAutoscaler"]["minReplicas"], 2)
        self.assertIn("requests", by_kind["Deployment"]["template"]["spec"]["containers"][0]["resources"])
        settings = common.ini((CENTRAL / "pgbouncer.ini").read_text())["pgbouncer"]
        grace = by_kind["Deployment"]["template"]["spec"]["terminationGracePeriodSeconds"]
        self.assertEqual(grace, int(settings["drain_max_seconds"]) + 5)

    def test_volumes_of_the_central_pooler_exist_and_contain_its_files(self):
        deployment = next(thing for thing in central() if thing["kind"] == "Deployment")
        spec = deployment["spec"]["template"]["spec"]
        config_maps = {thing["metadata"]["name"]: thing["data"] for thing in central() if thing["kind"] == "ConfigMap"}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
        file = pathlib.PurePosixPath(spec["containers"][0]["args"][0])
        self.assertIn(file.name, config_maps[mounts[str(file.parent)]["configMap"]["name"]])
        users = common.ini(config_maps["iambouncer"]["pgbouncer.ini"])["pgbouncer"]["auth_file"]
        self.assertIn("secret", mounts[str(pathlib.PurePosixPath(users).parent)])

    def test_every_setting_of_the_central_pooler_is_documented(self):
        settings = common.ini((CENTRAL / "pgbouncer.ini").read_text())["pgbouncer"]
        self.assertEqual(set(settings) - common.settings(), set())

    @unittest.skipUnless(common.program(), "IAMBOUNCER is not set")
    def test_the_program_accepts_the_central_poolers_file(self):
        check_configuration(self, (CENTRAL / "pgbouncer.ini").read_text())

    def test_pods_use_the_service_account_of_both_files(self):
        accounts = [common.documents(FOLDER / f"serviceaccount-{kind}.yaml") for kind in ("irsa", "pod-identity")]
        names = set()
        for things in accounts:
            self.assertEqual([error for thing in things for error in rules.schema_errors(thing)], [])
            names |= {thing["metadata"]["name"] for thing in things}
        things = central() + [thing for name in ("sidecar", "job", "legacy-sidecar") for thing in common.documents(FOLDER / f"{name}.yaml")]
        used = {rules.pod_of(thing)[1]["serviceAccountName"] for thing in things if rules.pod_of(thing)}
        self.assertEqual(used, names)
        self.assertIn("aws eks create-pod-identity-association", (FOLDER / "serviceaccount-pod-identity.yaml").read_text())

    def test_the_legacy_manifest_is_valid_and_keeps_what_its_users_have(self):
        [thing] = common.documents(FOLDER / "legacy-sidecar.yaml")
        self.assertEqual(rules.schema_errors(thing), [])
        _, spec = rules.pod_of(thing)
        [(container, is_sidecar)] = rules.poolers(spec)
        self.assertTrue(is_sidecar)
        # Only this image contains what the probe runs.
        self.assertTrue(container["image"].endswith("-debug"))
        self.assertIn("psql -h localhost -p 5432", container["livenessProbe"]["exec"]["command"][-1])
        names = {variable["name"] for variable in container["env"]}
        self.assertEqual(names, {"RDS_HOST", "AWS_REGION", "DB_USERNAME", "DB_NAME", "DB_PORT"})
        configuration = rules.Configuration(container)
        problems = rules.variable_errors(container) + rules.port_errors(container, configuration) + rules.drain_errors(spec, configuration)
        self.assertEqual(problems, [])

    def test_every_manifest_is_in_the_readme(self):
        text = (FOLDER / "README.md").read_text()
        for path in FOLDER.iterdir():
            if path.name != "README.md":
                self.assertIn(f"]({path.name})", text)


class Seccomp(unittest.TestCase):
    """The profile with io_uring, and the script that makes it."""

    profile = json.loads((FOLDER / "seccomp/iambouncer.json").read_text())

    def allowed(self):
        rules_without_arguments = [rule for rule in self.profile["syscalls"] if "args" not in rule]
        return {name for rule in rules_without_arguments if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}

    def test_io_uring_is_allowed_and_privileged_calls_are_not(self):
        self.assertLessEqual({"io_uring_setup", "io_uring_enter", "io_uring_register"}, self.allowed())
        privileged = {"mount", "unshare", "setns", "bpf", "perf_event_open", "init_module", "kexec_load", "reboot", "chroot", "clone"}
        self.assertEqual(self.allowed() & privileged, set())

    def test_the_profile_has_only_what_kubelets_profiles_may_have(self):
        # A condition would be ignored, so that a rule for containers with a capability would apply to all.
        self.assertEqual(set(self.profile), {"defaultAction", "architectures", "syscalls"})
        self.assertEqual(self.profile["defaultAction"], "SCMP_ACT_ERRNO")
        for rule in self.profile["syscalls"]:
            self.assertLessEqual(set(rule), {"names", "action", "args", "errnoRet"})

    def test_rules_for_capabilities_and_other_processors_are_removed(self):
        loader = importlib.machinery.SourceFileLoader("seccomp_profile", str(common.ROOT / "tools/seccomp-profile"))
        script = types.ModuleType(loader.name)
        script.__file__ = loader.path
        loader.exec_module(script)
        kept = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
        refused = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        default = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_S390X", "subArchitectures": []}],
            "syscalls": [
                {**kept, "includes": {}, "comment": "always"},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["sync_file_range2"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
                {**refused, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO"},
            ],
        }
        derived = script.derive(default)
        added = {"names": ["io_uring_enter", "io_uring_register", "io_uring_setup"], "action": "SCMP_ACT_ALLOW"}
        self.assertEqual(derived["syscalls"], [kept, refused, added])
        self.assertEqual(derived["architectures"], ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
        default["syscalls"][0]["includes"] = {"kernel": "new"}
        with self.assertRaises(SystemExit):
            script.derive(default)

    def test_origin_and_licence_are_stated(self):
        notice = (FOLDER / "seccomp/NOTICE").read_text()
        for text in ("Apache License, Version 2.0", "Copyright", "moby", "Changes"):
            self.assertIn(text, notice)


if __name__ == "__main__":
    unittest.main()
