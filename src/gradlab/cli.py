"""The ``gradlab`` command: what one does with runs. Training is ``python train.py``."""

import argparse
import sys
from pathlib import Path

from gradlab import __version__
from gradlab.errors import ConfigError, FieldError, GradlabError


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, not '{text}'")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit status (0 done, 1 failed, 2 wrongly called)."""
    parser = argparse.ArgumentParser(
        prog="gradlab", description="What one does with runs. To train: python train.py --help"
    )
    parser.add_argument("--version", action="version", version=f"gradlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    ui = commands.add_parser("ui", help="show the runs in a browser: MLflow's own pages, on this machine only")
    ui.add_argument("--uri", help="the store, as in tracking.uri; default: MLFLOW_TRACKING_URI, else ./mlflow.db")
    ui.add_argument("--experiment", default="gradlab", help="the experiment to land on (default: %(default)s)")
    ui.add_argument(
        "--port", type=_port, default=5000, help="a port of 127.0.0.1 (default: %(default)s, or the next free)"
    )

    sync = commands.add_parser("sync", help="ship what a run's journal holds and MLflow does not")
    sync.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, such as outputs/2026-…")
    sync.add_argument("--uri", help="the store; default: the run's own, else MLFLOW_TRACKING_URI, else ./mlflow.db")

    show = commands.add_parser("show-schedule", help="draw the learning rate of a configuration, without training")
    show.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: schedule=cosine optimizer.lr=0.1"
    )
    show.add_argument("--into", type=Path, metavar="FILE", help="the PNG (default: ./<schedule>_schedule.png)")

    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "ui":
            from gradlab.tracking.ui import serve

            return serve(parsed.uri, parsed.experiment, parsed.port)
        if parsed.command == "show-schedule":
            from gradlab.analysis.show_schedule import show_schedule

            return show_schedule(parsed.overrides, parsed.into)
        from gradlab.tracking.sync import sync_runs

        return sync_runs(parsed.runs, parsed.uri)
    except (ConfigError, FieldError) as error:
        print(f"gradlab {parsed.command}: {error}", file=sys.stderr)
        return 2
    except GradlabError as error:
        print(f"gradlab {parsed.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
