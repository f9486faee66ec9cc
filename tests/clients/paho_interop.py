"""Runs a test file of eclipse/paho.mqtt.testing against a broker, test by test.

paho_interop.py FILE HOST PORT LOG

The file's own command line can't be used: one of the two does not get along with its own --port. Prints a line per test;
what the tests print goes to LOG. Ends with status 1 if one failed, 2 if none ran.
"""

import contextlib
import importlib.util
import logging
import os
import pathlib
import signal
import sys
import time
import unittest

TEST_SECONDS_MAX = 120
# What the files set when they are run as programs.
TOPICS = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
WILDCARDS = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
# A test whose name unittest does not take for one.
UNNAMED = "will_message_test"


def load(path, host, port):
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.host, module.port = host, port
    module.topics, module.wildtopics = TOPICS, WILDCARDS
    module.nosubscribe_topics = ("test/nosubscribe",)
    module.topic_prefix = path.stem + "/"
    return module


class Table(unittest.TestResult):
    """Prints each test's outcome when it is known."""

    def __init__(self, name, out):
        super().__init__()
        self.name, self.out = name, out
        self.counts = {"ok": 0, "FAIL": 0}

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        print(f"--- {test.id()}")
        signal.alarm(TEST_SECONDS_MAX)

    def line(self, test, outcome, why=""):
        signal.alarm(0)
        self.counts[outcome] += 1
        # What goes wrong before the first test belongs to none.
        name = getattr(test, "_testMethodName", str(test))
        took = time.monotonic() - getattr(self, "started", time.monotonic())
        print(f"{self.name:14} {name:34} {outcome:5}{took:6.1f} s  {why}".rstrip(), file=self.out, flush=True)

    def addSuccess(self, test):
        self.line(test, "ok")

    def addFailure(self, test, error):
        self.line(test, "FAIL", self.reason(test, error))

    addError = addFailure

    def reason(self, test, error):
        print(self._exc_info_to_string(error, test))
        return f"{error[0].__name__}: {str(error[1]).splitlines()[0] if str(error[1]) else ''}"[:120]


def too_long(*_):
    raise TimeoutError(f"not done after {TEST_SECONDS_MAX} s")


def main():
    path, host, port, log = sys.argv[1:]
    path = pathlib.Path(path).resolve()
    logging.getLogger().setLevel(logging.ERROR)
    signal.signal(signal.SIGALRM, too_long)
    out = sys.stdout
    with open(log, "w", encoding="utf-8") as log_file:
        with contextlib.redirect_stdout(log_file), contextlib.redirect_stderr(log_file):
            case = load(path, host, int(port)).Test
            names = unittest.defaultTestLoader.getTestCaseNames(case)
            names += [UNNAMED] if hasattr(case, UNNAMED) else []
            table = Table(path.stem, out)
            unittest.TestSuite(case(name) for name in names).run(table)
    ok, failed = table.counts["ok"], table.counts["FAIL"]
    print(f"{path.stem:14} {ok} of {ok + failed} ok", flush=True)
    # Threads of the clients may still be waiting for something.
    os._exit(1 if failed else 0 if ok else 2)


if __name__ == "__main__":
    main()
