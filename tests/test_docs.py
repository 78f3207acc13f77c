"""What the pages say of the code is true: headings, links, module paths, letters, the walkthrough."""

import importlib.util
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import ray
import torch
import yaml

from algorithms.credit import PRESETS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
CODE = [
    path
    for top in ("algorithms", "envs", "pipeline", "benchmarks", "tests", "docs", "conf")
    for ext in ("py", "sql", "yaml")
    for path in sorted((ROOT / top).rglob(f"*.{ext}"))
    if path != Path(__file__).resolve()
]
UNBUILT = "Planned, not built"
"""The section of docs/design.md whose folders do not exist yet."""


def name_of(path):
    return str(path.relative_to(ROOT))


def headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [match[1] for match in re.finditer(r"^#+ +(.+?) *$", text, re.MULTILINE)]


def section(page, title):
    return re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.DOTALL | re.MULTILINE
    )[1]


def anchor(heading):
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def first_cells(table):
    """The first cell of each row, without its quotes."""
    rows = re.findall(r"^\| *(.+?) *\|", table, re.MULTILINE)
    return [row.strip("`") for row in rows[2:]]  # head and rule


def one_line(text):
    """Without line breaks, indentation and comment signs."""
    return re.sub(r"\s*\n[\s#]*", " ", text)


def test_references_to_definitions_are_headings_of_the_page():
    known = tuple(headings(ROOT / "docs/definitions.md")[1:])
    for path in (*PAGES, *CODE):
        for said in re.split(r"\bdefinitions: ", one_line(path.read_text()))[1:]:
            assert said.startswith(known), f"{name_of(path)}: definitions: {said[:40]}"


def test_no_definition_is_referred_to_by_number():
    found = [path for path in CODE if re.search(r"\bSPEC\b", path.read_text())]
    assert not found


def test_presets_are_those_of_the_definitions():
    assert sorted(first_cells(section(ROOT / "docs/definitions.md", "Presets"))) == sorted(PRESETS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name}: {target}"
        if fragment:
            assert fragment in map(anchor, headings(linked)), f"{page.name}: {target}"


def missing_paths(text):
    """Paths and modules of this repository that `text` names and that are not there."""
    tops = "algorithms|envs|pipeline|benchmarks|docs|tests|conf|requirements"
    missing = []
    for name in re.findall(rf"(?<![\w./:-])((?:{tops})/[\w./*-]*)", text):
        if not any(ROOT.glob(name.rstrip("./").replace("NAME", "*"))):
            missing.append(name)
    for name in re.findall(r"(?<![\w./-])((?:algorithms|envs|pipeline)(?:\.\w+)+)", text):
        parts = name.split(".")
        while parts and not (
            (ROOT.joinpath(*parts)).is_dir() or ROOT.joinpath(*parts).with_suffix(".py").is_file()
        ):
            parts.pop()
        rest = name.split(".")[len(parts) :]
        module = ROOT.joinpath(*parts)
        source = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
        if rest and not re.search(rf"\b{rest[0]}\b", source.read_text() if source.is_file() else ""):
            missing.append(name)
    for name, member in re.findall(r"`([\w/]+\.py): (\w+)`", text):
        if not re.search(rf"\b{member}\b", (ROOT / name).read_text()):
            missing.append(f"{name}: {member}")
    return missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_pages_name_exist(page):
    text = page.read_text()
    if page.name == "design.md":
        unbuilt = section(page, UNBUILT)
        folders = re.findall(r"^- `([\w/]+)/`", unbuilt, re.MULTILINE)
        assert folders and not [name for name in folders if (ROOT / name).exists()], (
            "it is built: mend the page"
        )
        text = text.replace(unbuilt, "")
    assert missing_paths(text) == []


def test_pages_that_experiment_files_and_presets_name_exist():
    texts = {path: "\n".join(re.findall(r"#.*", path.read_text())) for path in CODE if path.suffix == ".yaml"}
    texts |= {name: preset.source for name, preset in PRESETS.items()}
    assert {where: missing for where, text in texts.items() if (missing := missing_paths(text))} == {}


def dimensions(path):
    """Dimension suffixes of the names in a module: {`logp_DV`: [`D`, `V`]}."""
    with tokenize.open(path) as file:
        names = {
            token.string for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.NAME
        }
    found = {name: re.fullmatch(r"\w*[a-z0-9]_((?:[A-Z]\d?)+)", name) for name in names}
    return {name: re.findall(r"[A-Z]\d?", match[1]) for name, match in found.items() if match}


def names_with_dimensions():
    return {
        name: (dims, path)
        for top in ("algorithms", "envs", "pipeline")
        for path in sorted((ROOT / top).rglob("*.py"))
        for name, dims in dimensions(path).items()
    }


def test_dimension_letters_are_those_of_the_notation():
    letters = first_cells(section(ROOT / "docs/notation.md", "Letters"))
    assert len(set(letters)) == len(letters)
    for name, (dims, path) in names_with_dimensions().items():
        unknown = [dim for dim in dims if dim not in letters and dim[0] not in letters]  # G8: 8 rollouts
        assert not unknown, f"{name_of(path)}: {name}"


def test_examples_of_the_notation_are_names_in_the_code():
    examples = re.findall(r"`(\w+)`(?=.*\|$)", section(ROOT / "docs/notation.md", "Letters"), re.MULTILINE)
    assert not set(examples) - set(names_with_dimensions())


@pytest.fixture
def walkthrough():
    spec = importlib.util.spec_from_file_location("walkthrough", ROOT / "docs/walkthrough.py")
    module = importlib.util.module_from_spec(spec)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    sys.modules["walkthrough"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["walkthrough"]
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def test_the_walkthrough_shows_what_its_comments_say(walkthrough, capsys):
    walkthrough.main()
    said = capsys.readouterr().out
    assert said.count("outcome ") - said.count("the outcome") == 12  # rollouts
    assert "groups with no signal under the outcome alone: 1 of 2" in said
    assert "groups with no signal under igpo: 0 of 2" in said
    assert float(re.search(r"log-prob gap of sampler and learner: (\S+) nats", said)[1]) < 1e-4
    above, below = (float(x) for x in re.findall(r"tokens with advantage \w+ 0: (\S+) nats", said))
    assert above > 0 > below  # the step made good decisions likelier and bad ones less likely
    assert "samples the next batch from weights version 1" in said


WHAT_HAPPENS = ROOT / "docs/what_happens_when.md"
TO_COME = "to come"
"""Stands in the last column for a test that is not written yet."""


def situations():
    rows = [line for line in WHAT_HAPPENS.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return [row for row in cells if row[0] != "situation"]


def test_every_situation_says_what_happens_what_to_do_and_which_test_shows_it():
    assert len(situations()) >= 25
    for row in situations():
        assert len(row) == 4 and all(row), row
        shown = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
        assert shown or row[3] == TO_COME, row
        for path, name in shown:
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_the_files_for_clusters_parse():
    (job,) = yaml.safe_load_all((ROOT / "docs/cluster/kuberay.yaml").read_text())
    assert job["kind"] == "RayJob" and job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert job["spec"]["entrypoint"].endswith("--set storage_path=/data/runs"), (
        "the pods' disks go with the job"
    )
    slurm = ROOT / "docs/cluster/slurm.sh"
    subprocess.run(["bash", "-n", slurm], check=True)
    assert "#SBATCH --signal=B:TERM@600\n" in slurm.read_text(), "B: signals the shell, where rllib is"
    assert slurm.read_text().splitlines()[-1] == 'exec rllib train file "$@" --set "storage_path=$STORAGE"'


def test_a_submitted_job_leaves_the_environment_behind_and_its_runs_outside():
    page = (ROOT / "docs/cluster.md").read_text()
    (sent,) = re.findall(r"--runtime-env-json '(.*)'", page)
    assert json.loads(sent) == {"working_dir": ".", "excludes": [".venv", ".venv-*", ".git", "runs", "dist"]}
    assert "rllib train file two_nodes.yaml --set storage_path=/shared/runs\n" in page
