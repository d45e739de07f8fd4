"""Where the runs of a comparison come from: a sweep's folder, run folders, whole folders of either, or MLflow."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.analysis.records import ENDED, LISTED, Run, choices, read_run, run_address, value_of
from gradlab.config import AXES
from gradlab.errors import ConfigError, GradlabError
from gradlab.settings import without_secret

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun

SWEEP_FILE, JOURNAL = "sweep.json", "journal.jsonl"


@dataclass(frozen=True)
class Source:
    """Runs that are compared, and what is known of where they come from.

    title: what they are, for a headline.
    runs: all of them, also those that failed or have not begun.
    command: the command line that made them, where it was one; else empty.
    status: of the sweep: ``running``, ``finished``, ``failed`` or ``killed``; or None for runs of no one sweep.
    identity: of the sweep; or None.
    search: what a search was asked for: its ``sampler``, its ``space`` by dimension and how many ``points``; else None.
    """

    title: str
    runs: Sequence[Run]
    command: Sequence[str]
    status: str | None
    identity: str | None
    search: Mapping[str, Any] | None = None

    @property
    def space(self) -> Sequence[Mapping[str, Any]]:
        """The dimensions of a search, as ``sweeps.space`` writes them; none of a sweep over given values."""
        return list((self.search or {}).get("space", ()))


def read_sweep(folder: Path) -> Source:
    """The sweep in ``folder``, finished or not.

    Raises:
        ConfigError: there is no readable sweep.json.
    """
    try:
        sweep = json.loads((folder / SWEEP_FILE).read_text())
        points = sweep["points"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is not a sweep's folder: its {SWEEP_FILE} cannot be read ({error}).") from error
    return Source(
        title=str(sweep.get("name") or folder.name),
        runs=[_point(point, folder) for point in points],
        command=[str(word) for word in sweep.get("command") or []],
        status=sweep.get("status"),
        identity=sweep.get("id"),
        search=sweep.get("search"),
    )


def _point(point: dict[str, Any], sweep: Path) -> Run:
    """One point of a sweep: its run's folder, where it has one, and what the sweep knows better."""
    status, name, reason = str(point.get("status")), str(point.get("name")), point.get("reason")
    if point.get("folder"):
        path = sweep / point["folder"]
        if (path / JOURNAL).is_file():
            run = read_run(path, sweep)
            # A run that a dead worker left behind says that it is running; the sweep knows that it is not.
            status = run.status if status in ("waiting", "running") or run.status in ENDED else status
            changes = {"name": name, "status": status, "reason": reason or run.reason}
            return Run(**{**vars(run), **changes})
        reason = reason or f"there is no run in {point['folder']}"
    flat = {
        # `optimizer=adam` chooses a file, whose name is in the resolved configuration.
        (f"{key}.name" if key in AXES and key != LISTED else key): value_of(value.strip("'\""))
        for key, _, value in (override.lstrip("+").partition("=") for override in point.get("overrides") or [])
    }
    if LISTED in flat:  # `augment=[crop,flip]` names files, too
        flat[LISTED] = str(flat[LISTED]).strip("[]").replace(" ", "").replace(",", "+") or "none"
    config = {key: value for key, value in choices(flat).items() if key in flat}
    seed = flat.get("seed")
    return Run(
        name=name, status=status, reason=reason, seed=seed if isinstance(seed, int) else None, config=config,
        metrics={}, seconds=float("nan"), folder=None, sweep=sweep, mlflow_run_id=None, mlflow_address=None,
        diverged_at=None, about={},
    )  # fmt: skip


def find_runs(paths: Sequence[Path], output_dir: Path) -> Source:
    """The runs that ``paths`` name; without any, those of the latest sweep in ``output_dir``, else all runs there.

    Raises:
        ConfigError: a path is neither a sweep, nor a run, nor a folder with any of them.
    """
    if not paths:
        sweeps = sorted(output_dir.expanduser().glob(f"**/{SWEEP_FILE}"), key=lambda path: path.stat().st_mtime_ns)
        if sweeps:
            return read_sweep(sweeps[-1].parent)
        if not any(output_dir.expanduser().glob(f"**/{JOURNAL}")):
            raise ConfigError(
                f"There are no runs in {output_dir}. Train some with python train.py, or name the folders to compare."
            )
        paths = [output_dir]
    sources = [source for path in paths for source in _in_folder(path.expanduser())]
    if len(sources) == 1:
        return sources[0]
    seen: set[Path | None] = set()
    runs = []
    for run in (run for source in sources for run in source.runs):
        if run.folder is None or run.folder not in seen:
            runs.append(run)
            seen.add(run.folder)
    return Source(f"{len(runs):,} runs", runs, [], None, None)


def _in_folder(path: Path) -> list[Source]:
    if (path / SWEEP_FILE).is_file():
        return [read_sweep(path)]
    if (path / JOURNAL).is_file():
        run = read_run(path)
        return [Source(run.name, [run], [], None, None)]
    sweeps = sorted(found.parent for found in path.glob(f"**/{SWEEP_FILE}"))
    alone = sorted(found.parent for found in path.glob(f"**/{JOURNAL}") if not any(s in found.parents for s in sweeps))
    if not sweeps and not alone:
        what = "a folder without runs" if path.is_dir() else "no folder"
        raise ConfigError(f"{path} is {what}: it has neither a {JOURNAL} nor a {SWEEP_FILE}, nor have folders in it.")
    sources = [read_sweep(sweep) for sweep in sweeps]
    if alone:
        sources.append(Source(f"{len(alone):,} runs", [read_run(run) for run in alone], [], None, None))
    return sources


def search_mlflow(expression: str, experiment: str, uri: str | None) -> Source:
    """The runs of an MLflow experiment that ``expression`` (MLflow's own filter language; empty for all) finds.

    Raises:
        ConfigError: there is no such experiment, or MLflow does not understand the filter.
        GradlabError: the store cannot be read.
    """
    from gradlab.tracking.store import open_client, sqlite_file, tracking_uri

    store = tracking_uri(uri)
    file = sqlite_file(store)
    if file is not None and not file.exists():
        raise ConfigError(f"there is no {file}: no run has been tracked there. Name another store with --uri.")
    try:
        client = open_client(store)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(each.name for each in client.search_experiments())) or "none"
            raise ConfigError(f"there is no experiment '{experiment}' in {without_secret(store)}; it has {names}.")
        runs: list[Run] = []
        token = None
        while True:
            page = client.search_runs([found.experiment_id], expression, max_results=1000, page_token=token)
            runs += [_from_mlflow(run, store) for run in page if "seed" in run.data.params]  # a sweep's parent has none
            token = page.token
            if not token:
                break
    except GradlabError:
        raise
    except Exception as error:  # whatever MLflow and the store below it raise
        first = str(error).splitlines()[0]
        if "INVALID_PARAMETER_VALUE" in str(getattr(error, "error_code", "")):
            raise ConfigError(
                f"--filter '{expression}' is not understood ({first}). An example: \"params.`model.name` = 'mlp'\"."
            ) from error
        raise GradlabError(f"the store {without_secret(store)} cannot be searched: {first}") from error
    if not runs:
        raise ConfigError(f"no run of the experiment '{experiment}' in {without_secret(store)} fits '{expression}'.")
    title = f"{experiment}: {expression}" if expression else experiment
    return Source(title, runs, [], None, None)


def _from_mlflow(run: "MLflowRun", store: str) -> Run:
    """A run as MLflow knows it; its folder too, where it is on this machine, for the curves."""
    tags, data = run.data.tags, run.data
    flat = {key: value_of(value) for key, value in data.params.items()}
    seed = flat.get("seed")
    folder = Path(tags.get("gradlab.folder", ""))
    here = folder.is_absolute() and (folder / JOURNAL).is_file()
    step, stopped = tags.get("gradlab.diverged_at_step"), tags.get("gradlab.pruned_at_step")
    known = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed", "RUNNING": "running"}
    seconds = float("nan")
    if here:
        seconds = read_run(folder).seconds
    versions = {k.removeprefix("gradlab.version."): v for k, v in tags.items() if k.startswith("gradlab.version.")}
    about: dict[str, Any] = {"versions": versions}
    for key in ("device", "data_sha256", "threads"):
        with contextlib.suppress(KeyError):
            about[key] = tags[f"gradlab.{key}"]
    return Run(
        name=str(run.info.run_name),
        status=tags.get("gradlab.status") or known.get(str(run.info.status), "running"),
        reason=tags.get("gradlab.reason"),
        seed=seed if isinstance(seed, int) else None,
        config=choices(flat),
        metrics={str(key): float(value) for key, value in data.metrics.items()},
        seconds=seconds,
        folder=folder if here else None,
        sweep=None,
        mlflow_run_id=str(run.info.run_id),
        mlflow_address=run_address(store, run.info.experiment_id, run.info.run_id),
        diverged_at=int(step) if step else None,
        about=about,
        stopped_at=int(stopped) if stopped else None,
    )
