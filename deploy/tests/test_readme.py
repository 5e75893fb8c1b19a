"""The pages below deploy: links, and words that the project avoids."""

import re
import unittest

import common

PAGES = sorted(common.DEPLOY.glob("**/*.md"))


class Pages(unittest.TestCase):
    def test_links_lead_to_files_and_headings(self):
        self.assertGreater(len(PAGES), 5)
        for page in PAGES:
            with self.subTest(page.relative_to(common.ROOT)):
                self.assertEqual(common.link_errors(page), [])

    def test_every_folder_is_in_the_index(self):
        text = (common.DEPLOY / "README.md").read_text()
        for folder in common.DEPLOY.iterdir():
            if folder.is_dir():
                self.assertRegex(text, rf"\]\({folder.name}(/[a-z]+)?\)")

    def test_versions_in_the_files_are_that_of_the_workspace(self):
        for path in sorted(common.DEPLOY.glob("**/*")):
            if path.suffix in (".yaml", ".json", ".tf", ".md") and "tests" not in path.parts:
                for found in re.findall(r"ghcr\.io/iambouncer/[a-z-]+:(\d[\w.]*)", path.read_text()):
                    self.assertEqual(found, common.version(), path)

    def test_every_file_begins_with_what_it_is_for(self):
        for path in sorted(common.DEPLOY.glob("**/*")):
            if path.suffix not in (".yaml", ".tf", ".nix", ".py", ".ini", ".tpl") or "systemd" in path.parts:
                continue
            with self.subTest(path.relative_to(common.ROOT)):
                self.assertRegex(path.read_text(), r'^(#|;|"""|\{\{-? ?/\*)')


if __name__ == "__main__":
    unittest.main()
