"""What a line of the log holds: time, level, logger, request id and words, and never what a patient's file says.

Our own messages are written with that in mind. Those of others quote headers, names of files and queries, at any level,
so that of theirs only kind and place are kept; of an exception too, whoever logs it.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from lib.errors import frames_of
from lib.web.request_ids import NONE, request_id

JOBS = ("task_train", "task_scoring", "task_batch_infer")  # loggers to which MONAI Label passes what a job prints
UNFORESEEN = "unforeseen error"
_OURS = "lib"
_SERVERS = "uvicorn"
_ACCESS = "uvicorn.access"
_LONGEST = 4000  # characters of a message
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LINE = re.compile(r"(?P<time>\S+ \S+) (?P<level>[A-Z]+) (?P<logger>\S+) \[(?P<id>[A-Za-z0-9._-]+)\] (?P<words>.*)")
_MONAI_LABEL = re.compile(r"\[[^]]*\] \[[^]]*\] .*?\((monailabel|__main__)\b")
_TRACE = "Traceback (most recent call last):"
_FRAME = re.compile(r'^ *File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
_LIB = str(Path(__file__).resolve().parents[1])


class Line(logging.Formatter):
    """One line for each record, whatever is in it: time, level, logger, request id, words.

    Attributes:
        job: the id of the job that this process is, which stands where there is no request; set by `lib.web.log`.
    """

    job = NONE

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        words = _words(record)
        if record.name in JOBS and _LINE.fullmatch(words):
            return words  # of a job, which has made a line of it
        number = request_id.get()
        number = self.job if number == NONE else number
        return f"{self.formatTime(record)} {record.levelname} {record.name} [{number}] {words}"


class Wanted(logging.Filter):
    """Lets through what belongs into the log: of libraries, MONAI Label among them, only what they warn of."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.exc_info and getattr(record.exc_info[1], "is_in_log", False):
            return False  # raised again, up to somebody who would write it once more
        if record.name == _ACCESS:
            return False  # its lines hold queries; `lib.web.log.log_request` writes others
        if _is_of(record.name, _SERVERS):
            return "WebSocket" not in str(record.msg)  # with the address and its query
        if record.name in JOBS:
            return not is_of_monai_label(record.getMessage())
        return record.levelno >= logging.WARNING or _is_of(record.name, _OURS)


def origin_of(error: BaseException) -> str:
    """Kind of an error and the place in `lib` where it was raised.

    Example:
        >>> try:
        ...     int("Doe^Jane")
        ... except ValueError as error:
        ...     origin_of(error).partition(" (")[0]
        'ValueError'
    """
    trace = error.__traceback__
    found = None
    while trace is not None:
        code = trace.tb_frame.f_code
        if found is None or code.co_filename.startswith(_LIB):
            found = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__} ({found})" if found else type(error).__name__


@dataclass(frozen=True)
class Parts:
    """What a line of a log is made of.

    Args:
        time: date and time of day.
        level: such as `INFO`.
        logger: whose line it is.
        id: of the request or the job.
        words: the rest.
    """

    time: str
    level: str
    logger: str
    id: str
    words: str


def parts_of(line: str) -> Parts | None:
    """The parts of a line that `Line` has made; None if it has not."""
    found = _LINE.fullmatch(line)
    return Parts(**found.groupdict()) if found else None


def is_of_monai_label(line: str) -> bool:
    """Whether a job of MONAI Label's printed it before our app gave it another log: then it holds the request."""
    return bool(_MONAI_LABEL.match(line))


def escaped(text: str) -> str:
    """`text` with control characters written out: nobody can begin a line of the log but us."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def _words(record: logging.LogRecord) -> str:
    if _is_of(record.name, _OURS) or _is_of(record.name, _SERVERS) or record.name in JOBS:
        words = record.getMessage().rstrip()
        if _TRACE in words and _is_of(record.name, _SERVERS):
            words = _of_trace(words)
    else:
        words = f"a message at {record.filename}:{record.lineno}, whose words are left out"
    if record.exc_info and record.exc_info[1] is not None:
        words += f": {UNFORESEEN}: {_chain(record.exc_info[1])}"
    words = escaped(words)
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."


def _of_trace(text: str) -> str:
    """What uvicorn is told of a start that failed, as text: our words of what is wrong with the server, or places."""
    kind, _, reason = text.splitlines()[-1].partition(": ")
    name = kind.rpartition(".")[2]
    if kind.startswith("lib.errors."):
        return f"{name}: {reason}"
    places = (f"{Path(file).name}:{line} {function}" for file, line, function in _FRAME.findall(text))
    return f"{UNFORESEEN}: {name} ({' > '.join(places)})"


def _chain(error: BaseException) -> str:
    """Kinds and places of an error and of those that it came from."""
    told: dict[int, str] = {}  # by identity: an error may be its own cause
    one: BaseException | None = error
    while one is not None and id(one) not in told:
        told[id(one)] = frames_of(one)
        one = one.__cause__ or one.__context__
    return " from ".join(told.values())


def _is_of(name: str, family: str) -> bool:
    return name == family or name.startswith(f"{family}.")
