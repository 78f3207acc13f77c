"""Folders that come from another node: whole, in pieces, whatever their size."""

import pytest
from local_ray import local_ray
from ray.rllib.utils import checkpoints

from algorithms.igpo.weights import between_nodes
from algorithms.igpo.weights.between_nodes import bring_folder, folders_of_any_size


def write(folder):
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "state.pkl").write_bytes(bytes(range(10)))
    (folder / "empty").touch()


def test_files_are_read_in_pieces(tmp_path):
    write(tmp_path / "a")
    assert list(between_nodes._pieces(str(tmp_path / "a"), 4)) == [
        ("empty", True, b""),
        ("policy/state.pkl", True, bytes([0, 1, 2, 3])),
        ("policy/state.pkl", False, bytes([4, 5, 6, 7])),
        ("policy/state.pkl", False, bytes([8, 9])),
    ]


def test_rllib_brings_folders_so_while_it_saves_and_restores():
    own = checkpoints.sync_dir_between_nodes
    with pytest.raises(OSError), folders_of_any_size():
        assert checkpoints.sync_dir_between_nodes is bring_folder
        raise OSError
    assert checkpoints.sync_dir_between_nodes is own


@pytest.mark.slow
def test_a_folder_is_brought_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(between_nodes, "PIECE_BYTES", 4)
    write(tmp_path / "a")
    with local_ray(num_cpus=1) as ray:
        here = ray.util.get_node_ip_address()
        bring_folder(here, tmp_path / "a", here, tmp_path / "b")
        with pytest.raises(RuntimeError, match="no node of the Ray cluster has the address 10.9.8.7"):
            bring_folder("10.9.8.7", tmp_path / "a", here, tmp_path / "c")
    found = {str(path.relative_to(tmp_path / "b")): path for path in (tmp_path / "b").rglob("*")}
    assert sorted(found) == ["empty", "policy", "policy/state.pkl"]
    assert found["policy/state.pkl"].read_bytes() == bytes(range(10)) and found["empty"].stat().st_size == 0
