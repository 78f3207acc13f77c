"""A user's module of the name of one of this project's packages is told in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder, code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize(
    ("file", "name"),
    [("envs.py", "envs"), ("pipeline/__init__.py", "pipeline"), ("algorithms.py", "algorithms")],
)
def test_a_console_script_names_the_file_that_stands_in_the_way(tmp_path, file, name):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    for script in ("rllib", "igpo"):
        done = run(tmp_path, f"import igpo_start; igpo_start.{script}()")
        assert done.returncode == 2
        assert done.stderr == (
            f"error: {tmp_path / file} stands in for the package `{name}` of igpo-rllib: rename it, or take "
            "its folder off PYTHONPATH\n"
        )


def test_python_code_is_told_the_same(tmp_path):
    (tmp_path / "envs.py").write_text("")
    done = run(tmp_path, "from algorithms.igpo import IGPOConfig")
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / 'envs.py'} stands in for")


def test_a_folder_without_code_is_in_nobodys_way(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "pipeline").mkdir()
    done = run(
        tmp_path, "import sys; sys.argv = ['igpo', 'settings', 'lr']; import igpo_start; igpo_start.igpo()"
    )
    assert done.returncode == 0 and "config.lr" in done.stdout


def test_the_scripts_of_the_package_start_here():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'rllib = "igpo_start:rllib"' in text and 'igpo = "igpo_start:igpo"' in text
    assert '"igpo_start.py" = "igpo_start.py"' in text


LEAVES = """
import atexit, sys, threading, time, types
import igpo_start

class Kept:
    def __del__(self):
        print("taken apart")

kept = Kept()
atexit.register(print, "at exit")

def app():
    print("done")
    {before}
    sys.exit({code})

sys.modules["pipeline.cli.igpo"] = types.SimpleNamespace(app=app)
igpo_start.igpo()
"""


@pytest.mark.parametrize("code", [0, 2])
def test_the_process_ends_without_being_taken_apart(tmp_path, code):
    done = run(tmp_path, LEAVES.format(code=code, before="pass"))
    assert (done.returncode, done.stdout, done.stderr) == (code, "done\nat exit\n", "")


def test_a_thread_is_waited_for(tmp_path):
    slow = "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()"
    done = run(tmp_path, LEAVES.format(code=1, before=slow))
    assert done.returncode == 1 and done.stdout == "done\nthread\nat exit\ntaken apart\n"


def test_an_exit_with_words_is_pythons_own(tmp_path):
    done = run(tmp_path, LEAVES.format(code="'words'", before="pass"))
    assert done.returncode == 1 and done.stderr == "words\n" and "taken apart" in done.stdout
