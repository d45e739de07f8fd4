"""``python -m gradlab.experiments``: run experiments again, and say whether what is recorded of them still holds."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from gradlab.analysis.sources import Source
from gradlab.errors import ConfigError, FieldError, GradlabError, did_you_mean
from gradlab.experiments.catalogue import EXPERIMENTS
from gradlab.experiments.experiment import Experiment, Form, Outcome
from gradlab.experiments.reading import rows_of, workers_of
from gradlab.experiments.record import Took, compared, folder_of, holds, note_rerun, recorded, write, write_readme
from gradlab.experiments.running import REPOSITORY, How, commands_of, run_form, wall_seconds
from gradlab.tracking.folder import SweepFolder

RECORDS = REPOSITORY / "experiments"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; returns 0 where every recorded answer holds, 1 where one has changed, 2 if wrongly called."""
    parser = argparse.ArgumentParser(
        prog="python -m gradlab.experiments",
        description="Run experiments again, and say whether what is recorded of them still holds.",
        epilog="Experiments: " + ", ".join(EXPERIMENTS) + ".",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which; default: the ladder, and with --quick the studies too"
    )
    parser.add_argument("--list", action="store_true", help="name them with their questions, and stop")
    parser.add_argument(
        "--data",
        help="pictures: a folder or an archive, one folder for each class; or the name of embedded data, as digits",
    )
    parser.add_argument("--quick", action="store_true", help="seconds: shows that all of it runs; answers nothing")
    parser.add_argument(
        "--full", action="store_true", help="the studies as large as their questions want them: hours, on a GPU"
    )
    parser.add_argument("--seeds", metavar="FIRST", type=int, help="other seeds: those recorded, each this much higher")
    parser.add_argument("--resume", action="store_true", help="take runs that an earlier call has made")
    parser.add_argument(
        "--record",
        action="store_true",
        help="make what comes out the record, in experiments/; with --seeds, note beside it what these said",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("outputs/experiments"),
        help="for runs and results (default: %(default)s)",
    )
    parser.add_argument("--with", dest="more", nargs="+", default=[], metavar="OVERRIDE", help="for every command, as hydra.launcher.workers=1")  # fmt: skip
    parsed = parser.parse_args(arguments)
    try:
        chosen = [_named(name) for name in parsed.names] or _unnamed(studies=parsed.list or parsed.quick)
        if parsed.list:
            for experiment in chosen:
                data = ", ".join(form.name for form in experiment.forms)
                print(f"{experiment.name:<16} {experiment.question}  [{data}]")
            return 0
        if parsed.record and (parsed.quick or parsed.full):
            raise ConfigError("--record keeps the experiment as it is: without --quick and --full.")
        if parsed.quick and parsed.full:
            raise ConfigError("--quick and --full exclude each other.")
        held = [_run(experiment, parsed) for experiment in chosen]
    except (ConfigError, FieldError) as error:
        print(f"gradlab.experiments: {error}", file=sys.stderr)
        return 2
    except GradlabError as error:
        print(f"gradlab.experiments: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if all(held) else 1


def _named(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ConfigError(
            f"there is no experiment '{name}'.{did_you_mean(name, list(EXPERIMENTS))} There are {', '.join(EXPERIMENTS)}."
        )
    return EXPERIMENTS[name]


def _unnamed(studies: bool) -> list[Experiment]:
    """The ladder; studies, which want published data and much time, only where they are named, or cost nothing."""
    return [one for one in EXPERIMENTS.values() if studies or one.folder.startswith("ladder/")]


def _form(experiment: Experiment, data: str | None, quick: bool) -> tuple[Form, str | None]:
    """The form that is asked for, and the pictures it takes."""
    first = experiment.forms[0]
    if data is None:
        form = experiment.embedded if quick or first.wants_pictures else first
        if form is not first and not quick:
            print(f"{experiment.name}: without --data and pictures, this is its form on {form.name}.")
        return form, None
    named = experiment.form(data)
    if named is not None and not named.wants_pictures:
        return named, None
    if not Path(data).expanduser().exists():
        names = [form.name for form in experiment.forms if not form.wants_pictures]
        raise ConfigError(
            f"--data {data}: there is no such folder or archive; {experiment.name} has {', '.join(names)}."
        )
    pictures = next((form for form in experiment.forms if form.wants_pictures), None)
    if pictures is None:
        raise ConfigError(f"{experiment.name} takes no pictures: leave --data out.")
    return pictures, data


def _run(experiment: Experiment, parsed: argparse.Namespace) -> bool:
    """One experiment from its commands to its verdict; whether what is recorded holds."""
    print(f"\n=== {experiment.question}")
    form, pictures = _form(experiment, parsed.data, parsed.quick)
    if parsed.full and form.full is None:
        raise ConfigError(f"{experiment.name} on {form.name} is as large as it gets: leave --full out.")
    size = "-quick" if parsed.quick else "-full" if parsed.full else ""
    runs_in = parsed.output_dir / f"{experiment.name}-{form.name}{size}"
    outcome: Outcome
    began = time.monotonic()
    if experiment.own_run is not None:
        commands = commands_of(form, How(pictures, parsed.quick))
        outcome, settings = experiment.own_run(commands), ""
        told = [["gradlab", *command] for command in commands]
        took = Took(time.monotonic() - began)
    else:
        assert experiment.examine is not None
        how = How(pictures, parsed.quick, parsed.full, parsed.seeds, parsed.more)
        ran, commands = run_form(form, how, runs_in, parsed.resume)
        outcome = experiment.examine(ran)
        sources = [*ran.sources, *ran.refined, *ran.followed]
        took = Took(sum(map(wall_seconds, sources)), workers_of(sources[0]))
        outcome = Outcome(**{**vars(outcome), "rows": rows_of(sources)})
        settings = _settings(sources)
        told = [["python", "train.py", "-m", *filter(_recordable, command)] for command in commands]
    print()
    for finding in outcome.findings:
        print(finding.said)
    records = folder_of(RECORDS, experiment, form)
    recording = parsed.record and parsed.seeds is None
    results = records if recording else runs_in / "results"
    write(results, experiment, form, outcome, told, settings, took)
    print(f"\ntable, figure and runs: {results}")
    if size:
        return True
    if recording:
        write_readme(RECORDS, experiment)
        return True
    before = recorded(records)
    if before is None:
        print("nothing is recorded of this experiment on these data, so there is nothing to compare with")
        return True
    answers = compared(before, outcome.findings)
    print("\n".join(answer.line for answer in answers))
    print(f"the recorded verdict {'still holds' if holds(answers) else 'does NOT hold in these runs'}")
    if parsed.record:
        note_rerun(records, parsed.seeds, answers)
        write_readme(RECORDS, experiment)
    return holds(answers)


def _recordable(word: str) -> bool:
    """Whether an override belongs into the record: it says what was run, not how."""
    return not word.startswith(("hydra.launcher.", "tracking"))


def _settings(sources: Sequence[Source]) -> str:
    """What all runs of each command share, as their sweep recorded it, without where it was recorded."""
    parts = []
    for source in sources:
        sweep = next(run.sweep for run in source.runs if run.sweep)
        shared = yaml.safe_load(SweepFolder(sweep).config.read_text())
        parts.append(
            yaml.safe_dump({k: v for k, v in shared.items() if k not in ("output_dir", "tracking")}, sort_keys=False)
        )
    return "---\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
