"""Commands of benchmarks, as pages, docstrings and scripts print them, name a program and its options."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = [
    ROOT / "Makefile",
    *(
        path
        for top in ("", "docs", "conf", "requirements", "benchmarks")
        for pattern in (("*.md",) if not top else ("**/*.md", "**/*.py", "**/*.sh", "**/*.yaml"))
        for path in sorted((ROOT / top).glob(pattern))
    ),
]
COMMAND = re.compile(r"-m (benchmarks(?:\.\w+)+)((?:\\+\n|[^`\n#])*)")
"""A module and what follows it: in one line, or in several that end in a backslash."""


def commands():
    for path in PLACES:
        for match in COMMAND.finditer(path.read_text()):
            yield str(path.relative_to(ROOT)), match[1], re.findall(r"(?<!\S)\[?(--[\w-]+)", match[2])


def program_of(module):
    """The file that `python -m MODULE` runs."""
    place = ROOT.joinpath(*module.split("."))
    return place / "__main__.py" if place.is_dir() else place.with_suffix(".py")


def options_of(file):
    """Options that a program declares, those of the benchmarks that it imports included."""
    text = file.read_text()
    used = re.findall(r"from (benchmarks(?:\.\w+)+) import", text)
    options = {"--help", *re.findall(r'"(--[\w-]+)"', text)}
    return options.union(*(options_of(program_of(name)) for name in used))


def test_commands_are_found():
    assert len({module for _, module, _ in commands()}) > 20
    assert ("docs/your_data.md", "benchmarks.retrieval.server_clients", []) in list(commands())
    wrapped = [set(options) for _, module, options in commands() if module == "benchmarks.sampling.scaling"]
    assert {"--model", "--prompts", "--group-size", "--repeats", "--svg"} in wrapped


@pytest.mark.parametrize("module", sorted({module for _, module, _ in commands()}))
def test_the_module_of_a_command_is_a_program(module):
    program = program_of(module)
    assert program.is_file(), f"there is no {program.relative_to(ROOT)}"
    assert program.name == "__main__.py" or 'if __name__ == "__main__":' in program.read_text()


@pytest.mark.parametrize("module", sorted({module for _, module, options in commands() if options}))
def test_a_program_has_the_options_that_its_commands_name(module):
    known = options_of(program_of(module))
    for place, name, options in commands():
        if name == module:
            assert not set(options) - known, place
