"""Runs the steps that are not done yet, and says what and why."""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError

from .output import Output
from .plan import FLOAT32, Plan, decide
from .report import describe, passed, quality
from .steps import Steps
from .workspace import CommandStep, Workspace, command


def make(options: argparse.Namespace) -> int:
    """Do, or with ``--dry-run`` show, what the options ask for; the exit code."""
    from seq2edge.runtime.dependencies import needs

    with needs("make", "export", "cpu", "deploy"):
        import onnx_ir  # noqa: F401
    plan = decide(options)
    output = Output(options.output)
    work = Workspace(options.work or output.path.parent / f"{output.name}.make")
    steps = Steps(options, plan, output, work, look_up=not options.dry_run)
    maker = _Maker(options, plan, output, work, steps)
    planned = maker.make(dry=True, quiet=not options.dry_run)
    if not planned["steps"][-1]["reused"]:
        output.check(options.force or output.is_ours(work.written(output.path)))
    report = planned
    if not options.dry_run:
        with work.locked():
            report = maker.make()
    if options.json:
        print(json.dumps(report, indent=2))
    return 0


class _Maker:
    """One run of the pipeline."""

    def __init__(
        self,
        options: argparse.Namespace,
        plan: Plan,
        output: Output,
        work: Workspace,
        steps: Steps,
    ) -> None:
        self._options, self._plan, self._output, self._work = options, plan, output, work
        self._steps = steps
        self._dry = self._quiet = False
        self._source = "TEXT"
        self._done: list[dict[str, Any]] = []

    def make(self, *, dry: bool = False, quiet: bool = False) -> dict[str, Any]:
        """All steps in order; what was decided and done, as plain values.

        Args:
            dry: do nothing; what is not done yet is taken to succeed.
            quiet: and say nothing.
        """
        self._dry, self._quiet, self._done = dry, quiet, []
        for decision in self._plan.decisions:
            self._say(str(decision))
        exported = self._steps.export()
        self._run(exported)
        if not dry and exported.output is not None:
            # Packs are for whole encoder-decoders. What is wrong with the data is said at once.
            bundle = Bundle.open(exported.output)
            self._steps.check_data(bundle)
            self._source = "TEXT" if bundle.manifest.speech is None else "RECORDING"
        scheme, made = self._quantize(exported)
        if self._plan.downgrade:
            made = self._steps.downgrade(made)
            self._run(made)
        packed = self._pack(made)
        return {
            "output": str(self._output.path),
            "target": self._options.target,
            "backend": self._plan.backend,
            "scheme": scheme,
            "work": str(self._work.folder),
            "dry_run": dry,
            "decisions": [vars(decision) for decision in self._plan.decisions],
            "steps": self._done,
            "on_the_device": packed,
        }

    def _quantize(self, exported: CommandStep) -> tuple[str, CommandStep]:
        """The first scheme that is good enough, and its bundle."""
        from seq2edge.quantize.errors import QuantizationError, QuantizationWarning

        schemes = self._plan.schemes
        for number, scheme in enumerate(schemes):
            later = schemes[number + 1] if number + 1 < len(schemes) else None
            if scheme == FLOAT32:
                return scheme, exported
            step = self._steps.quantize(exported, scheme)
            if later is None:
                report = self._run(step)
            else:
                with warnings.catch_warnings():  # what follows answers it
                    warnings.simplefilter("ignore", QuantizationWarning)
                    report = self._run(step, failing=(QuantizationError,))
            if "failed" not in report and (later is None or passed(report)):
                self._compare(exported, step)
                return scheme, step
            reason = report.get("failed") or quality(report)
            self._say(f"scheme: {later} in place of {scheme} ({reason})")
        raise AssertionError("float32 is the last of several")

    def _compare(self, exported: CommandStep, quantized: CommandStep) -> None:
        step = self._steps.compare(exported, quantized)
        if step is not None:
            # What is made for a GPU may need operators that the CPU does not have.
            self._run(step, failing=(BackendError,))

    def _pack(self, bundle: CommandStep) -> list[str]:
        """The commands that remain, for the device."""
        step, output = self._steps.pack(bundle), self._output
        report = self._work.report(step)
        if report is None or output.state() != report["state"]:
            report = self._execute(step)
            if report is not None:
                self._finish(step, report)
        else:
            self._tell(step, report, reused=True)
        if output.is_archive:
            commands = [f"tar -xf {output.path.name}", f"{output.name}/install.sh"]
        else:
            commands = [f"{output.name}/install.sh"]
        commands.append(f"{output.name}/run.sh {self._source}")
        self._say(f"on the device: {' && '.join(commands)}")
        return commands

    def _finish(self, step: CommandStep, report: dict[str, Any]) -> None:
        """Unpack what is to be a folder, and remember that it is ours."""
        output = self._output
        if not output.is_archive:
            archive = output.archive(self._work.folder)
            self._say(f"$ tar -xf {archive} -C {output.path.parent}")
            output.unpack(archive)
            archive.unlink()
            report["path"] = str(output.path)
        report["state"] = output.state()
        self._work.keep(step, report)
        self._work.remember(output.path, report["state"])
        self._tell(step, report)

    def _run(self, step: CommandStep, failing: tuple[type[Exception], ...] = ()) -> dict[str, Any]:
        """Do a step that is not done; an error of ``failing`` is a result like any other."""
        report = self._work.report(step)
        if report is not None:
            self._tell(step, report, reused=True)
            return report
        try:
            result = self._execute(step)
        except failing as error:
            result = {"failed": str(error)}
        if result is None:
            return {}
        self._work.keep(step, result)
        self._tell(step, result)
        return result

    def _execute(self, step: CommandStep) -> dict[str, Any] | None:
        """The report of a step's command, run in this process; None: only shown."""
        self._say(f"$ {command(step.words)}")
        if self._dry:
            self._done.append(_entry(step, reused=False, report=None))
            return None
        # What is in the way is half done, or the output, which was looked at before.
        force = [] if step.name == "compare" else ["--force"]
        options = self._options.parse([*step.words, *force, "--json"])
        with redirect_stdout(io.StringIO()) as out:
            options.command(options)
        report: dict[str, Any] = json.loads(out.getvalue())
        return report

    def _tell(self, step: CommandStep, report: dict[str, Any], *, reused: bool = False) -> None:
        if reused:
            self._say(f"done before: {command(step.words)}")
        for line in describe(step.name, report):
            self._say(f"  {line}")
        self._done.append(_entry(step, reused=reused, report=report))

    def _say(self, line: str) -> None:
        """To people: on stderr where stdout is for a program."""
        if not self._quiet:
            print(line, file=sys.stderr if self._options.json else sys.stdout, flush=True)


def _entry(step: CommandStep, *, reused: bool, report: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "step": step.name,
        "command": command(step.words),
        "reused": reused,
        "report": report,
    }
