"""What several tests use: paths, YAML files, changed copies, and what the reference pages say. Owns the reading of these pages."""

import copy
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = DEPLOY / "tests/schemas"

# The image, as in the Dockerfile: ports without a file, and the account.
IMAGE = "ghcr.io/iambouncer/iambouncer"
IMAGE_PORTS = {5432, 6432}
IMAGE_USER = 65532
DEFAULT_HTTP_PORT = 9127
# Without a file. With one, there is no limit.
DEFAULT_DRAIN_MAX_SECONDS = 25

# Variables of the AWS SDK, which the program uses, besides those in docs/settings.md.
OTHER_VARIABLES = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_STS"}


def program():
    """The binary given by the caller, or None."""
    return os.environ.get("IAMBOUNCER")


def updates_docs():
    return os.environ.get("UPDATE_DOCS") == "1"


def documents(path):
    """The objects in a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def settings():
    """Names of settings in docs/settings.md."""
    text = (ROOT / "docs/settings.md").read_text()
    section = text.split("## `[pgbouncer]`")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE))


def variables():
    """Variables that the program reads: one for each setting, and those for a start without a file."""
    text = (ROOT / "docs/settings.md").read_text()
    section = text.split("## Without a file")[1]
    aliases = {name for line in section.splitlines() if line.startswith("|") for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", line)}
    return {f"IAMBOUNCER_{name.upper()}" for name in settings()} | aliases | OTHER_VARIABLES


def replaced(content, path, value):
    """A copy in which one field is replaced; None removes it."""
    content = copy.deepcopy(content)
    target = content
    *parents, last = path
    for key in parents:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return content


def schema_check(test, schema, *paths):
    """Checks files with a schema that check-jsonschema contains."""
    result = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths], capture_output=True, text=True)
    test.assertEqual(result.returncode, 0, result.stdout + result.stderr)


def metrics():
    """Names of series in docs/metrics.md, with the suffixes of histograms."""
    found = set()
    for name, kind in re.findall(r"^\| `(iambouncer_[a-z0-9_]+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix for suffix in suffixes}
    return found


def health_paths():
    """Paths of probes by what they are for: startup, liveness and readiness."""
    text = (ROOT / "docs/health.md").read_text()
    rows = [re.findall(r"`(/[a-z]+)`", line.split("|")[1]) for line in text.splitlines() if line.startswith("| `/")]
    return {paths[0].removeprefix("/"): set(paths) for paths in rows}


def anchor(heading):
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def link_errors(page):
    """Links of a page that lead to no file, or to no heading."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            found.append(f"{target}: there is no such file")
        elif fragment and fragment not in map(anchor, re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)):
            found.append(f"{target}: there is no such heading")
    return found


def version():
    """That of the workspace."""
    return re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]


def ini(text):
    """Sections of a pgbouncer.ini. Simpler than the program: one line for each value, comments on lines of their own."""
    sections, section = {}, None
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in ";#":
            continue
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        else:
            name, value = line.split("=", 1)
            section[name.strip()] = value.strip()
    return sections
