"""flake.nix: parsed, and evaluated with substitutes for nixpkgs, if nix-instantiate (Debian: nix-bin) is installed. Nothing is
built."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

import common

FLAKE = common.ROOT / "flake.nix"
DOCKERFILE = common.DEPLOY / "image" / "Dockerfile"


def evaluate(flake=FLAKE):
    """What flake-check.nix selects, by system."""
    with tempfile.TemporaryDirectory() as directory:
        # Everything that Nix writes.
        environment = os.environ | {"HOME": directory} | {
            f"NIX_{name}_DIR": f"{directory}/{name.lower()}" for name in ("STORE", "STATE", "DATA", "LOG", "CONF", "LOCALSTATE")
        }
        command = ["nix-instantiate", "--eval", "--strict", "--json", pathlib.Path(__file__).with_name("flake-check.nix"), "--arg", "flake", flake]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        return json.loads(result.stdout)


@unittest.skipUnless(shutil.which("nix-instantiate"), "nix-instantiate is not installed")
class Flake(unittest.TestCase):
    workspace = tomllib.loads((common.ROOT / "Cargo.toml").read_text())["workspace"]

    def test_the_package_is_that_of_the_workspace(self):
        systems = evaluate()
        self.assertEqual(set(systems), {"x86_64-linux", "aarch64-linux"})
        names = {tomllib.loads((common.ROOT / member / "Cargo.toml").read_text())["package"]["name"] for member in self.workspace["members"]}
        for system in systems.values():
            self.assertEqual(system["version"], self.workspace["package"]["version"])
            self.assertEqual(system["license"], self.workspace["package"]["license"])
            self.assertEqual(system["platforms"], ["x86_64-linux", "aarch64-linux"])
            self.assertLessEqual({flag.removeprefix("--package=") for flag in system["cargoBuildFlags"]}, names)
            self.assertEqual(pathlib.Path(system["lockFile"]), common.ROOT / "Cargo.lock")
            self.assertEqual(system["program"], "/store/iambouncer/bin/iambouncer")
            self.assertEqual(system["checked"], ["iambouncer"])
            self.assertTrue(system["isDefault"])

    def test_the_image_is_that_of_the_manifests(self):
        for system in evaluate().values():
            config = system["image"]["config"]
            self.assertEqual(config["User"], f"{common.IMAGE_USER}:{common.IMAGE_USER}")
            self.assertEqual(config["Entrypoint"], ["/iambouncer"])
            # Nothing else is set: defaults are those of the program.
            ports = ",".join(str(port) for port in sorted(common.IMAGE_PORTS))
            self.assertEqual(config["Env"], ["PATH=/", f"LISTEN_PORT={ports}"])
            exposed = {int(port.split("/")[0]) for port in config["ExposedPorts"]}
            self.assertEqual(exposed, common.IMAGE_PORTS | {common.DEFAULT_HTTP_PORT})

    def test_the_image_stops_and_is_checked_as_that_of_the_dockerfile(self):
        stage = DOCKERFILE.read_text().split("\nFROM ")[1].replace("\\\n", " ")
        [variables] = re.findall(r"^ENV (.*)$", stage, re.MULTILINE)
        [signal] = re.findall(r"^STOPSIGNAL (\S+)$", stage, re.MULTILINE)
        [(options, command)] = re.findall(r"^HEALTHCHECK (.*) CMD (\[.*\])$", stage, re.MULTILINE)
        seconds = {name: int(number) for name, number in re.findall(r"--([a-z-]+)=(\d+)s", options)}
        for system in evaluate().values():
            config = system["image"]["config"]
            self.assertEqual(config["Env"], variables.split())
            self.assertEqual(config["StopSignal"], signal)
            self.assertEqual(config["Healthcheck"], {
                "Test": ["CMD", *json.loads(command)],
                "Interval": seconds["interval"] * 10**9,
                "Timeout": seconds["timeout"] * 10**9,
                "StartPeriod": seconds["start-period"] * 10**9,
            })

    def test_a_broken_flake_is_reported(self):
        for old, new in (("pkgs.dockerTools", "pkgs.dockertools"), ("workspace.version", "workspace.versoin"), (" valgrind\n", " valgrnd\n")):
            with self.subTest(new), tempfile.TemporaryDirectory() as directory:
                for name in ("Cargo.toml", "Cargo.lock"):
                    shutil.copy(common.ROOT / name, directory)
                broken = pathlib.Path(directory) / "flake.nix"
                self.assertIn(old, FLAKE.read_text())
                broken.write_text(FLAKE.read_text().replace(old, new))
                with self.assertRaises(RuntimeError):
                    evaluate(broken)


if __name__ == "__main__":
    unittest.main()
