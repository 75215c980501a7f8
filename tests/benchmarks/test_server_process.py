from lib.benchmarks.server_process import bad_lines


def test_lines_of_a_log_that_tell_of_an_error():
    lines = [
        "[INFO] all is well, no errors here",
        "[WARNING] /infer/liver_tumor there is no image 'x'",
        "[2026-11-27 03:46:45] [ERROR] (lib.web.answers) /train/ the disk is full",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
        "    1 / 0",
        "ZeroDivisionError: division by zero",
        "[INFO] going on",
    ]
    assert bad_lines(lines) == [
        "[2026-11-27 03:46:45] [ERROR] (lib.web.answers) /train/ the disk is full",
        "Traceback (most recent call last): ZeroDivisionError: division by zero",
    ]
    assert bad_lines([]) == []
    assert len(bad_lines(["ERROR"] * 50)) == 10
