"""Exit codes that a shell can trust, and one line for an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.console import Parser, check_output_file, check_output_folder, run
from lib.errors import BadInputError, LiverLoopError, StorageError


def exit_code(main):
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_result_is_the_exit_code(result, code, capsys):
    assert exit_code(lambda: result) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [LiverLoopError("no"), BadInputError("no"), StorageError("no")])
def test_our_errors_are_one_line_and_2(error, capsys):
    assert exit_code(raising(error)) == 2
    assert capsys.readouterr() == ("", "error: no\n")


def test_an_error_over_several_lines_becomes_one(capsys):
    assert exit_code(raising(BadInputError("first\n  second"))) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_ctrl_c_is_130(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_exit_code_of_argparse_is_kept():
    assert exit_code(raising(SystemExit(2))) == 2


def test_what_is_our_fault_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_too_little_memory_is_one_line(capsys):
    assert exit_code(raising(MemoryError("Unable to allocate 1.78 PiB"))) == 2
    assert exit_code(raising(MemoryError())) == 2
    assert capsys.readouterr().err == (
        "error: not enough memory (Unable to allocate 1.78 PiB)\nerror: not enough memory (nothing more is known)\n"
    )


def test_a_reader_that_has_gone_ends_the_script_quietly():
    code = "from lib.console import run\nrun(lambda: [print('x' * 99, flush=True) for _ in range(99999)] and None)"
    script = [sys.executable, "-c", code]
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).resolve().parents[1]
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 141)


def test_a_wrong_argument_is_one_line_that_names_the_help(capsys):
    assert exit_code(lambda: Parser(prog="x.py").parse_args(["--no"])) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --no; see x.py --help\n"


def test_outputs_that_can_be_written_are_accepted_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "new" / "deep", Path("new"), Path("..") / tmp_path.name):
        check_output_folder(folder)
        check_output_file(folder / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"^can't write .*: it is a folder; name a file$"):
        check_output_file(tmp_path)
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(StorageError) as caught:
            check_output_folder(folder)
        assert str(caught.value) == (
            f"can't write to the folder {folder} (Not a directory); choose another or change its permissions"
        )
    with pytest.raises(StorageError, match="File name too long"):
        check_output_folder(tmp_path / ("x" * 300) / "y")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that nobody can write")
def test_a_folder_that_nobody_can_write():
    with pytest.raises(StorageError, match="can't write to the folder /proc/out"):
        check_output_file(Path("/proc/out/scores.json"))
