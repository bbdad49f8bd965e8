import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from udacisense.base.files import (
    atomic_path,
    locked,
    remove,
    sha256_file,
    sha256_path,
    size_bytes,
    what_it_is,
    write_text,
)
from udacisense.errors import InputError


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_path(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.txt"]


def write_and_fail(target, error):
    with atomic_path(target) as partial:
        if target.is_dir():
            partial.mkdir()
        (partial / "new" if target.is_dir() else partial).write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_the_existing_file_and_leaves_nothing(tmp_path, error):
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(error):
        write_and_fail(tmp_path / "file.txt", error)
    assert (tmp_path / "file.txt").read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_an_exception_keeps_the_existing_folder_and_leaves_nothing(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(target, KeyboardInterrupt)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with atomic_path(target) as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_writer_that_wrote_nothing_keeps_the_existing_folder(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_path(target):
        pass
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_what_a_dead_process_left_is_removed(tmp_path, dead_pid):
    (tmp_path / f".file.txt.partial-{dead_pid}").write_text("half")
    half_folder = tmp_path / f".file.txt.partial-old-{dead_pid}"
    half_folder.mkdir()
    (tmp_path / "file.txt").write_text("old")
    write_text(tmp_path / "file.txt", "whole")
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_lost_between_the_two_renames_is_restored(tmp_path, dead_pid):
    old = tmp_path / f".folder.partial-old-{dead_pid}"
    old.mkdir()
    (old / "precious").touch()
    with pytest.raises(ValueError, match="stop"), atomic_path(tmp_path / "folder"):
        raise ValueError("stop")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["precious"]


def test_a_half_written_folder_of_a_dead_process_is_never_restored(tmp_path, dead_pid):
    half = tmp_path / f".folder.partial-{dead_pid}"
    half.mkdir()
    with pytest.raises(ValueError, match="stop"), atomic_path(tmp_path / "folder"):
        raise ValueError("stop")
    assert names(tmp_path) == []


def test_a_living_writers_partial_and_unrelated_files_are_left_alone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        mine = [f".file.txt.partial-{process.pid}", ".file.txt.partial-notes", ".other.txt.partial-1"]
        for name in mine:
            (tmp_path / name).write_text("busy")
        write_text(tmp_path / "file.txt", "whole")
        assert names(tmp_path) == sorted([*mine, "file.txt"])
    finally:
        process.communicate(b"\n")


def test_a_name_with_wildcards_clears_up_after_itself_only(tmp_path, dead_pid):
    (tmp_path / f".a.partial-{dead_pid}").touch()
    (tmp_path / f".[a].partial-{dead_pid}").touch()
    write_text(tmp_path / "[a]", "whole")
    assert names(tmp_path) == sorted([f".a.partial-{dead_pid}", "[a]"])


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from udacisense.base.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2
    write_text(target, "new")
    assert names(tmp_path) == ["file.txt"]
    assert target.read_text() == "new"


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    # /dev/full answers every write with "no space left on device", as a full disk does.
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def write():
        with atomic_path(tmp_path / "file.txt") as partial:
            partial.symlink_to("/dev/full")
            partial.write_text("x" * 100_000)

    with pytest.raises(OSError, match="No space left"):
        write()
    assert names(tmp_path) == []


def test_a_lock_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path / "file.txt"):
        assert names(tmp_path) == [".file.txt.lock"]
        with pytest.raises(InputError, match="by another run; wait"), locked(tmp_path / "file.txt"):
            pass
    assert names(tmp_path) == []


def test_remove_takes_files_folders_links_and_nothing(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "x").touch()
    link = tmp_path / "link"
    link.symlink_to(kept)
    remove(link)
    assert names(kept) == ["x"]
    remove(kept)
    remove(kept)
    assert names(tmp_path) == []


def test_digests_and_sizes_of_files_and_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "sub" / "b").write_bytes(b"12345")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest() == sha256_path(tmp_path / "a")
    assert size_bytes(tmp_path) == 8
    assert size_bytes(tmp_path / "a") == 3
    before = sha256_path(tmp_path)
    (tmp_path / "sub" / "b").rename(tmp_path / "sub" / "c")
    assert sha256_path(tmp_path) != before


def test_a_lock_keeps_a_second_writer_out_and_leaves_nothing(tmp_path):
    target = tmp_path / "run"
    with locked(target):
        with pytest.raises(InputError, match=f"another run \\(process {os.getpid()}\\)"), locked(target):
            pytest.fail("two writers were let in")
        with locked(tmp_path / "other"):
            pass
    with locked(target):
        pass
    assert names(tmp_path) == []


def test_a_lock_ends_with_an_exception_and_with_a_killed_process(tmp_path):
    with pytest.raises(ValueError, match="stop"), locked(tmp_path / "run"):
        raise ValueError("stop")
    code = (
        "import os, signal, sys; from pathlib import Path; from udacisense.base.files import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False).returncode == -9
    with locked(tmp_path / "run"):
        pass
    assert names(tmp_path) == []


def test_of_many_writers_one_at_a_time_gets_the_lock(tmp_path):
    """Takers and leavers by turns: a lock file that is removed while another waits for it must guard nothing."""
    inside, most, refused = [], [], []

    def write(number):
        for _ in range(200):
            try:
                with locked(tmp_path / "run"):
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)
            except InputError:
                refused.append(number)

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(write, range(8)))
    assert most
    assert max(most) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", [".", "..", "./"])
def test_the_folder_that_the_user_stands_in_is_not_replaced(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(InputError, match="is the folder that you stand in, or holds it"), atomic_path(Path(target)):
        pytest.fail("the work must not begin")
    assert (tmp_path / "inner").is_dir()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "it is empty"),
        (b'{"weight_map": {}}', "it is text"),
        (b"PK\x03\x04 the rest never came", "it is a .zip that was cut short or damaged"),
        (b"\x1f\x8b\x08\0", "it is compressed: unpack it first"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "it is a Git LFS pointer: 'git lfs pull' fetches the file itself",
        ),
        (bytes(range(64)), None),
    ],
)
def test_what_people_give_in_place_of_another_kind_is_named(content: bytes, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(content)
    assert what_it_is(tmp_path / "given") == kind


def test_arrays_of_numpy_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", one=np.zeros(2))
    assert str(what_it_is(tmp_path / "weights.npz")).startswith("it is NumPy's .npz")


def test_a_full_disk_is_named_by_what_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_path(tmp_path / "page.html"):
        Path("/dev/full").write_text("more than nothing")
    assert caught.value.filename == str(tmp_path / "page.html")


def test_a_copy_that_cannot_be_written_whole_is_named_by_its_target(tmp_path):
    (tmp_path / "source").write_bytes(bytes(5000))
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught, atomic_path(tmp_path / "target") as partial:
            shutil.copyfile(tmp_path / "source", partial)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "target"), None)
