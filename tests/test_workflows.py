"""The workflows of GitHub: pinned, with the least rights, and in step with the project."""

import re
from pathlib import Path
from typing import Any

import pytest

import imagetok
from imagetok.config import parse_yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RIGHTS = {
    "ci.yml": {},
    "docs.yml": {"deploy": {"pages": "write", "id-token": "write"}},
    "release.yml": {
        "build": {"contents": "read"},
        "publish": {"id-token": "write"},
        "github": {"contents": "write"},
    },
}
"""Of the jobs that have any of their own; a new one belongs here after a second thought."""


def tree(name: str) -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / name
    return parse_yaml(path.read_text(), str(path))


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in tree(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(path):
    lines = [line for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_rights_are_the_least(path):
    workflow = tree(path.name)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    rights = {name: job.get("permissions") or {} for name, job in workflow["jobs"].items()}
    assert {name: given for name, given in rights.items() if given} == RIGHTS[path.name]
    assert "secrets." not in path.read_text()
    assert all(0 < job["timeout-minutes"] <= 180 for job in workflow["jobs"].values())
    for step in steps(path.name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        # What somebody can choose, such as the name of a branch, must not become code.
        assert "${{" not in step.get("run", "")


def test_ci_runs_what_runs_here():
    assert [step["run"] for step in steps("ci.yml") if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_a_release_is_published_only_after_its_files_were_tested():
    workflow = tree("release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    needs = {name: job.get("needs") for name, job in workflow["jobs"].items()}
    assert needs == {
        "build": None, "wheel": "build", "sdist": "build", "publish": ["wheel", "sdist"],
        "github": "publish",
    }  # fmt: skip
    (publish,) = [s for s in steps("release.yml") if "gh-action-pypi-publish" in s.get("uses", "")]
    assert "with" not in publish  # no password: PyPI trusts the environment below
    assert workflow["jobs"]["publish"]["environment"]["name"] == "pypi"


def changelog() -> list[tuple[str, str]]:
    """Sections by heading, in order."""
    parts = re.split(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_the_changelog_has_the_version_with_its_date_and_links():
    headings = [heading for heading, _ in changelog()]
    assert headings[0] == "[Unreleased]"
    dated = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", h) for h in headings[1:]]
    assert all(dated)
    versions = [found[1] for found in dated if found]
    assert versions[0] == imagetok.__version__
    assert versions == sorted(versions, key=lambda v: [*map(int, v.split("."))], reverse=True)
    links = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M))
    home = "https://github.com/imagetok/imagetok"
    assert links["Unreleased"] == f"{home}/compare/v{versions[0]}...HEAD"
    assert set(links) == {"Unreleased", *versions}
    assert all(links[version].startswith(home) for version in versions)


def test_sections_of_the_changelog_are_not_empty():
    for heading, text in changelog()[1:]:
        parts = re.split(r"^### .*$", text, flags=re.MULTILINE)[1:]
        assert parts and all("- " in part for part in parts), heading
