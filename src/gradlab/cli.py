"""The ``gradlab`` command: what one does with runs. Training is ``python train.py``."""

import argparse
import os
import sys
from pathlib import Path

from gradlab import __version__
from gradlab.errors import ConfigError, FieldError, GradlabError


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, not '{text}'")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not '{text}'")
    return int(text)


def _add_run(command: argparse.ArgumentParser) -> None:
    """What every command has that opens a trained network."""
    command.add_argument("run", metavar="RUN", help="a run's folder, an MLflow run id, 'latest' or 'best'")
    command.add_argument("--format", choices=("table", "csv", "json"), default="table", help="(default: %(default)s)")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    command.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="where 'latest' and 'best' look (default: %(default)s)"
    )
    command.add_argument("--uri", help="MLflow store of a run id; default: MLFLOW_TRACKING_URI, else ./mlflow.db")
    command.add_argument(
        "--imports", action="append", default=[], metavar="MODULE", help="a module that registers your own models"
    )


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("compare", help="which setting is best, by how much and how sure, from any runs")
    command.add_argument(
        "paths", nargs="*", type=Path, metavar="SWEEP|RUN", help="folders; default: the latest sweep, else all runs"
    )
    command.add_argument("--filter", metavar="EXPRESSION", help="MLflow's own: \"params.`model.name` = 'mlp'\"")
    command.add_argument("--experiment", default="gradlab", help="where --filter searches (default: %(default)s)")
    command.add_argument("--uri", help="its store; default: MLFLOW_TRACKING_URI, else ./mlflow.db")
    command.add_argument("--metric", default="best/val_accuracy", help="to compare by (default: %(default)s)")
    command.add_argument("--format", choices=("table", "markdown", "csv", "html"), default="table")
    command.add_argument("--into", type=Path, metavar="FILE", help="write it there (html: default comparison.html)")
    command.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="where runs are looked for (default: %(default)s)"
    )


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("doctor", help="what is wrong with installation, device, store, disk, data and runs")
    command.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="where runs make their folders (default: %(default)s)"
    )
    command.add_argument("--data-root", type=Path, default=Path("data"), help="as data.root (default: %(default)s)")
    command.add_argument("--uri", help="the store; default: MLFLOW_TRACKING_URI, else ./mlflow.db")
    command.add_argument(
        "--over", action="append", default=[], type=Path, metavar="RUN", help="a run elsewhere that you know to be over"
    )
    command.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def _add_gradcheck(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("gradcheck", help="backpropagation against numerical gradients, layer by layer")
    command.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: model=lenet data=mnist")
    command.add_argument(
        "--images", type=_count, default=8, help="training images that the loss is taken over (default: %(default)s)"
    )
    command.add_argument(
        "--entries",
        type=_count,
        default=10,
        help="entries of each parameter, beside a direction (default: %(default)s)",
    )
    command.add_argument("--format", choices=("table", "csv"), default="table", help="(default: %(default)s)")
    command.add_argument("--plant", metavar="PARAMETER", help="double its gradient, to see that this is found")


def _compare(parsed: argparse.Namespace) -> int:
    from gradlab.analysis.compare import compare

    return compare(
        parsed.paths,
        parsed.filter,
        experiment=parsed.experiment,
        uri=parsed.uri,
        output_dir=parsed.output_dir,
        metric=parsed.metric,
        form=parsed.format,
        into=parsed.into,
    )


def _use_trained(parsed: argparse.Namespace) -> int:
    from gradlab.trained.find import find_run

    found = find_run(parsed.run, parsed.output_dir, parsed.uri)  # before torch: a wrong name is told at once
    opening = {"form": parsed.format, "device": parsed.device, "imports": parsed.imports}
    if parsed.command == "evaluate":
        from gradlab.trained.evaluate import evaluate

        return evaluate(found, parsed.overrides, split=parsed.split, **opening)
    from gradlab.trained.predict import predict

    return predict(found, parsed.paths, top=parsed.top, **opening)


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
    ui.add_argument(
        "--host", default="127.0.0.1", help="another address lets others in, and needs MLflow's authentication"
    )

    sync = commands.add_parser("sync", help="ship what a run's journal holds and MLflow does not")
    sync.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, such as outputs/2026-…")
    sync.add_argument("--uri", help="the store; default: the run's own, else MLFLOW_TRACKING_URI, else ./mlflow.db")

    show = commands.add_parser("show-schedule", help="draw the learning rate of a configuration, without training")
    show.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: schedule=cosine optimizer.lr=0.1"
    )
    show.add_argument("--into", type=Path, metavar="FILE", help="the PNG (default: ./<schedule>_schedule.png)")

    finder = commands.add_parser("find-lr", help="suggest a learning rate, by training at rates that rise")
    finder.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: optimizer=adam model=lenet")
    finder.add_argument(
        "--into", type=Path, metavar="FILE", help="the PNG (default: ./<optimizer>_<model>_<data>_find_lr.png)"
    )

    evaluate = commands.add_parser("evaluate", help="how well a trained network does on its own data or on other")
    _add_run(evaluate)
    evaluate.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="data=… and data.key=value; default: its own"
    )
    evaluate.add_argument("--split", choices=("train", "val", "test", "all"), default="test", help="(default: test)")

    predict = commands.add_parser("predict", help="what a trained network says of pictures")
    _add_run(predict)
    predict.add_argument("paths", nargs="+", type=Path, metavar="PICTURE", help="pictures, and folders of pictures")
    predict.add_argument("--top", type=_count, default=1, help="how many classes to name (default: %(default)s)")

    _add_compare(commands)
    _add_doctor(commands)
    _add_gradcheck(commands)

    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "ui":
            from gradlab.tracking.ui import serve

            return serve(parsed.uri, parsed.experiment, parsed.port, parsed.host)
        if parsed.command == "show-schedule":
            from gradlab.analysis.show_schedule import show_schedule

            return show_schedule(parsed.overrides, parsed.into)
        if parsed.command == "find-lr":
            from gradlab.finder.command import find_lr

            return find_lr(parsed.overrides, parsed.into)
        if parsed.command == "compare":
            return _compare(parsed)
        if parsed.command == "gradcheck":
            from gradlab.gradcheck import gradcheck

            return gradcheck(
                parsed.overrides, images=parsed.images, entries=parsed.entries, plant=parsed.plant, form=parsed.format
            )
        if parsed.command in ("evaluate", "predict"):
            return _use_trained(parsed)
        if parsed.command == "doctor":
            from gradlab.doctor.checkup import check_up

            return check_up(parsed.output_dir, parsed.data_root, parsed.uri, parsed.over, parsed.json)
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
    except BrokenPipeError:  # gradlab doctor | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
