"""Exit codes that a shell can trust, and one line for an error."""

import pytest

from lib.console import run
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
