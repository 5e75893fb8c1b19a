"""What the pages print: commands with their output, configurations and manifests. The language of a block says what is done with it:

- console: commands after `$ `, which are run, with their output. `…` stands for anything in a line.
- console pooler, and blocks with file=NAME: commands that need a pooler, and their files. `tests/it/driver_pages` runs them;
  here their syntax is checked.
- sh: commands that need a cluster, a database or root. Syntax, subcommands and options are checked.
- ini: a configuration, which the program checks. The next console blocks of the page find it as pgbouncer.ini.
- yaml, json, hcl, toml, python: parsed; manifests, containers and variables are validated.
"""

import ast
import json
import pathlib
import re
import shlex
import subprocess
import tempfile
import textwrap
import tomllib
import unittest

import common
import hcl2
import rules
import yaml

DOCS = common.ROOT / "docs"
# These print parts of configurations, which alone have errors or warnings.
PARTS = {"authentication.md", "client-iam.md", "rolling-restart.md"}
ALL_PAGES = [common.ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
PAGES = [page for page in ALL_PAGES if page.name not in PARTS]
# Blocks without a language are output, or a picture. The others are not checked.
UNCHECKED = {"", "dockerfile", "go", "js", "sql"}
# Programs, which are run by another test if they are files.
RUN = {"go", "java", "js", "prisma", "ruby", "rust"}
# A variable of the command line, which is in no table.
OTHER_VARIABLES = {"IAMBOUNCER_HTTP"}
# What console blocks may run: programs that need neither a network nor a running pooler.
OFFLINE_PROGRAMS = {"iambouncer", "sed", "echo"}
OFFLINE_COMMANDS = {"check", "policy", "hash", "token", "authorities", "--version", "--help", "status", "healthcheck"}
# Fields that only a container has, to recognise a part of one.
CONTAINER_FIELDS = {"image", "env", "ports", "startupProbe", "livenessProbe", "readinessProbe", "securityContext", "resources"}
# What a file of settings is included in.
REST_OF_CONFIGURATION = "[databases]\napp = host=127.0.0.1 user=app\n[pgbouncer]\nauth_type = any\n"
USERS = '"orders" "secret"\n'
TIME_LIMIT_SECONDS = 20


def blocks(text):
    """Language, rest of the first line and text of each block; blocks in lists are indented."""
    found = re.findall(r"^( *)```(\w*)( [^\n]*)?\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [(language, information.strip(), textwrap.dedent(body)) for _, language, information, body in found]


def commands(body):
    """Commands of a console block with their output."""
    found = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, output = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL).groups()
        found.append((command, output))
    return found


class Sandbox:
    """A directory in which the commands of a page run, with nothing of the host's environment."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        (self.directory / "bin").mkdir()
        (self.directory / "bin/iambouncer").symlink_to(common.program())
        (self.directory / "userlist.txt").write_text(USERS)
        (self.directory / "password.txt").write_text("secret\n")
        self.code = 0

    def write_configuration(self, text):
        if "tls.crt" in text:
            self.write_certificate()
        (self.directory / "pgbouncer.ini").write_text(re.sub("/etc/(iam|pg)bouncer", str(self.directory), text))

    def write_certificate(self):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                        "/CN=pooler", "-keyout", "tls.key", "-out", "tls.crt"], cwd=self.directory, check=True, capture_output=True)

    def run(self, command):
        variables = {
            "PATH": f"{self.directory}/bin:/usr/bin:/bin",
            # Signing needs no network.
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example-secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        # The first command is for `$?`.
        script = f"(exit {self.code})\n{command} 2>&1"
        result = subprocess.run(["bash", "-c", script], cwd=self.directory, env=variables, stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS)
        self.code = result.returncode
        return result.stdout


def matches(expected, output):
    pattern = re.escape(expected.rstrip("\n")).replace("…", ".*")
    return re.fullmatch(pattern, output.rstrip("\n")) is not None


def console_errors(body, sandbox):
    found = []
    for command, expected in commands(body):
        words = shlex.split(command.replace("\\\n", " "))
        if words[0] not in OFFLINE_PROGRAMS or (words[0] == "iambouncer" and words[1] not in OFFLINE_COMMANDS):
            found.append(f"{command}: does not run offline; use sh for the block")
            continue
        output = sandbox.run(command)
        if not matches(expected, output):
            found.append(f"{command}: the page has\n{expected}\nbut the output is\n{output}")
    return found or ([] if commands(body) else ["a console block without a command"])


def ini_errors(body, sandbox):
    sandbox.write_configuration(body)
    output = sandbox.run("iambouncer check pgbouncer.ini")
    # A debug build does not have the feature that the released ones have.
    output = re.sub("^warning: otlp_endpoint .*feature.*\n", "", output, flags=re.MULTILINE)
    return [] if sandbox.code == 0 and "warning" not in output else [output]


def help_of(*command):
    result = subprocess.run([common.program(), *command, "--help"], capture_output=True, text=True, check=False)
    return result.stdout


def arguments_of_call(line):
    """What a line passes to the program; None if it does not call it."""
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        # As in `kubectl exec POD -- iambouncer status`, `sudo -u postgres iambouncer`, and in `--command "/iambouncer doctor"`.
        starts = at == 0 or words[at - 1] in ("--", "--command") or words[at - 2 : at - 1] == ["-u"]
        if not starts or not re.match(r"(\S*/)?iambouncer( |$)", word):
            continue
        arguments = [*word.split()[1:], *words[at + 1 :]]
        end = next((place for place, argument in enumerate(arguments) if argument in ("--", "<", ">", ">>", "|")), None)
        return arguments[:end]
    return None


def shell_errors(body):
    """Syntax, and subcommands and options of the program."""
    syntax = subprocess.run(["bash", "-n"], input=body, capture_output=True, text=True)
    found = [syntax.stderr] if syntax.returncode else []
    known = set(re.findall(r"^  ([a-z]+) ", help_of(), re.MULTILINE))
    for line in body.replace("\\\n", " ").splitlines() if not found else []:
        arguments = arguments_of_call(line)
        if arguments is None:
            continue
        command = [arguments[0]] if arguments and re.fullmatch("[a-z]+", arguments[0]) else []
        if command and command[0] not in known:
            found.append(f"{line}: unknown command {command[0]}")
            continue
        text = help_of(*command)
        found += [f"{line}: unknown option {option}" for option in arguments
                  if option.startswith("--") and not re.search(rf"{re.escape(option.split('=')[0])}\b", text)]
    return found


def all_maps(thing):
    """The map or list, and what is in it."""
    if isinstance(thing, dict):
        yield thing
    for value in thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else []:
        yield from all_maps(value)


def manifest(part):
    """The object of a manifest of which a page shows a part: a pod, or one container; None if it is something else."""
    if "apiVersion" in part:
        return part
    spec = part.get("spec", part)
    if "initContainers" not in spec and "containers" not in spec:
        if not set(spec) <= CONTAINER_FIELDS or not isinstance(spec.get("image", ""), str):
            return None
        spec = {"containers": [{"name": "part", "image": f"{common.IMAGE}:{common.version()}", **spec}]}
    spec = {"containers": [{"name": "application", "image": "registry.example.com/example:1.0.0"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "part"}, "spec": spec}


def is_pooler(container):
    return str(container.get("image", "")).startswith(common.IMAGE)


def yaml_errors(body):
    found = []
    for part in yaml.safe_load_all(body):
        thing = manifest(part)
        if thing is None:
            continue
        found += rules.schema_errors(thing, new_fields=True)
        for container in filter(is_pooler, all_maps(thing)):
            found += rules.variable_errors(container)
    return found


def json_errors(body):
    found = []
    for container in filter(is_pooler, all_maps(json.loads(body))):
        found += rules.variable_errors({"name": container["name"], "env": container["environment"]})
    return found


def parse_errors(parse, body):
    try:
        parse(body)
        return []
    except Exception as error:  # Each parser has its own.
        return [f"{type(error).__name__}: {error}"]


def block_errors(language, information, body, sandbox):
    if information == "pooler" and language == "console":
        return [error for command, _ in commands(body) for error in shell_errors(command)]
    if information and not information.startswith("file="):
        return [f"unknown words after the language: {information}"]
    if information and language in RUN:
        return []
    if information and language == "ini":
        body = REST_OF_CONFIGURATION + body
    if language in UNCHECKED:
        # A command with its output is run, unless it cannot be.
        return ["a command of the program in a block without a language"] if body.startswith("$ iambouncer") and not language else []
    checks = {
        "console": lambda: console_errors(body, sandbox),
        "ini": lambda: ini_errors(body, sandbox),
        "sh": lambda: shell_errors(body),
        "yaml": lambda: yaml_errors(body),
        "json": lambda: json_errors(body),
        "hcl": lambda: parse_errors(hcl2.loads, body),
        "toml": lambda: parse_errors(tomllib.loads, body),
        "python": lambda: parse_errors(ast.parse, body),
    }
    return checks[language]() if language in checks else [f"no check for blocks in {language}"]


def page_errors(text):
    """What is wrong with the blocks of a page."""
    with tempfile.TemporaryDirectory() as directory:
        sandbox = Sandbox(directory)
        return [error for block in blocks(text) for error in block_errors(*block, sandbox)]


@unittest.skipUnless(common.program(), "IAMBOUNCER is not set")
class Blocks(unittest.TestCase):
    maxDiff = None

    def test_commands_configurations_and_manifests_are_right(self):
        for page in PAGES:
            with self.subTest(page.relative_to(common.ROOT)):
                self.assertEqual(page_errors(page.read_text()), [])

    def assert_fails(self, text, error):
        found = page_errors(text)
        self.assertTrue(any(error in line for line in found), found)

    def test_each_kind_of_error_is_reported(self):
        self.assert_fails("```ini\n[pgbouncer]\nlisten_adr = *\n```", 'unknown setting "listen_adr"')
        self.assert_fails("```ini\n[databases]\napp = host=127.0.0.1 server_auth=kerberos\n```", "server_auth")
        self.assert_fails("```console\n$ iambouncer --version\niambouncer 9\n```", "but the output is")
        self.assert_fails("```console\n$ iambouncer check missing.ini\nmissing.ini: ok, 1 database\n```", "but the output is")
        self.assert_fails("```console\n$ psql -l\n```", "use sh")
        self.assert_fails("```\n$ iambouncer --version\n```", "without a language")
        self.assert_fails("```sh\niambouncer doktor pgbouncer.ini\n```", "unknown command doktor")
        self.assert_fails("```sh\nkubectl exec deploy/example -- iambouncer status --yaml\n```", "unknown option --yaml")
        self.assert_fails("```sh\necho (\n```", "syntax error")
        self.assert_fails("- a list:\n  ```yaml\n  apiVersion: v1\n  kind: Pod\n  metadata: { name: x, lables: {} }\n  spec: { containers: [] }\n  ```", "lables")
        self.assert_fails("```yaml\nlivenessProbe: { httpGt: {} }\n```", "httpGt")
        container = f"image: {common.IMAGE}:{common.version()}\nenv: [{{ name: RDS_HOSTNAME, value: x }}]"
        self.assert_fails(f"```yaml\n{container}\n```", "RDS_HOSTNAME")
        self.assert_fails("```hcl\nmodule {\n```", "Unexpected")
        self.assert_fails("```toml\na = \n```", "TOMLDecodeError")
        self.assert_fails("```python\ndef f(\n```", "SyntaxError")
        self.assert_fails("```perl\n1\n```", "no check")
        self.assert_fails("```ruby\n1\n```", "no check")
        self.assert_fails("```python file=a.py\ndef f(\n```", "SyntaxError")
        self.assert_fails("```console pooler\n$ echo (\n```", "syntax error")
        self.assert_fails("```console database\n$ true\n```", "unknown words")

    def test_an_ellipsis_stands_for_a_part_of_a_line(self):
        self.assertTrue(matches("a … c\nd\n", "a b c\nd"))
        self.assertFalse(matches("a …", "a b\nc"))


class Pages(unittest.TestCase):
    def test_links_lead_to_files_and_headings(self):
        for page in ALL_PAGES:
            with self.subTest(page.relative_to(common.ROOT)):
                self.assertEqual(common.link_errors(page), [])

    def test_every_page_is_in_the_readme(self):
        text = (common.ROOT / "README.md").read_text()
        for page in DOCS.glob("**/*.md"):
            # For contributors, who find it in CONTRIBUTING.md.
            if page.name != "style.md":
                self.assertIn(f"]({page.relative_to(common.ROOT)}", text)

    def test_images_have_the_version_of_the_workspace(self):
        for page in ALL_PAGES:
            for found in re.findall(r"ghcr\.io/iambouncer/[a-z-]+:(\d+\.\d+\.\d+)", page.read_text()):
                self.assertEqual(found, common.version(), page)

    def test_variables_and_metrics_exist(self):
        variables = common.variables() | OTHER_VARIABLES
        # Without the suffixes of histograms, as the pages print them.
        metrics = common.metrics() | {re.sub("_(bucket|sum|count)$", "", name) for name in common.metrics()}
        for page in ALL_PAGES:
            text = page.read_text()
            with self.subTest(page.relative_to(common.ROOT)):
                self.assertEqual(set(re.findall(r"\bIAMBOUNCER_[A-Z_]+\b", text)) - variables, set())
                self.assertEqual(set(re.findall(r"`(iambouncer_[a-z_]+)`", text)) - metrics, set())


if __name__ == "__main__":
    unittest.main()
