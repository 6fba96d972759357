"""Runs tests for a GPU, and tells of each as soon as it has ended which engine has trained in it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from clrtool.engine.resume.journal import Journal
from tests.gpu.results import Results


class Watch:
    """A plugin of pytest that writes a line a test."""

    def __init__(self, results: Results) -> None:
        self._results, self._engines = results, list[str]()

    @pytest.fixture(autouse=True)
    def _noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engines.clear()
        begin = Journal.begin

        def noting(journal: Journal, name: str, ensemble: Any) -> Any:
            self._engines.append(
                getattr(ensemble, "engine", "") or name
            )  # that of a race is not known at its beginning
            return begin(journal, name, ensemble)

        monkeypatch.setattr(Journal, "begin", noting)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        reason = report.longreprtext.strip().splitlines()[-1:] if not report.passed else []
        engines = list(dict.fromkeys(self._engines)) if report.when == "call" else []
        self._results.add(
            "test", name=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), engines=engines,
            reason=" ".join(reason),
        )  # fmt: skip


def run_tests(results: Results, device: str, *files: str) -> None:
    """Run those of these files; raises SystemExit where any fails."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of others may warn, which is an error, or take the GPU
    # torch says so once, where the first kernel of a thread is cuBLAS's, and helps itself; here it would be an error
    words = ["-W", "ignore:Attempting to run cuBLAS", "-m", "gpu", "--gpu-on", device, "-p", "no:cacheprovider", *files]
    if code := pytest.main(words, plugins=[Watch(results)]):
        raise SystemExit(int(code))
