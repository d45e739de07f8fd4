"""A run, top to bottom: folder, data, model, training, test, figures, result. Or several runs at once, as a population."""

import concurrent.futures
import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab import environment
from gradlab.config import Config
from gradlab.devices.launch import Helpers
from gradlab.disk import full
from gradlab.errors import DataError, GradlabError, is_out_of_memory
from gradlab.interruption import Interrupted, Interruption
from gradlab.prepare import check_device_and_libraries, choose_speed, lightning_trainer, prepare
from gradlab.record import Place, RunRecord
from gradlab.resume.beginning import Resumption
from gradlab.resume.fingerprint import fingerprint
from gradlab.settings import store_options

if TYPE_CHECKING:
    import torch

    from gradlab.classifier import Classifier
    from gradlab.conclusion import Ending
    from gradlab.data.datasets.base import Splits
    from gradlab.finder.before import Chosen
    from gradlab.learner import Learner
    from gradlab.lightning import pl


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``status`` is finished, diverged, pruned (given up by its sweep, which ``reason`` explains) or killed,
    and ``signum`` the signal that killed it.
    """

    status: str
    folder: Path
    metrics: dict[str, float]
    signum: int | None
    reason: str | None = None

    @property
    def best_val_accuracy(self) -> float | None:
        return self.metrics.get("best/val_accuracy")


def run(config: Config, command: list[str], place: Place | None = None, resumed: Resumption | None = None) -> Outcome:
    """Train, test and record one run. ``command`` is the command line, for the record; ``place`` that of a sweep's run.

    ``resumed`` is the run that it goes on with, or starts from.

    Raises:
        ConfigError: CUDA was asked for and does not work, or timm refuses its optimizer; no folder is made.
        GradlabError: something outside the code failed, such as a damaged data file; the run is FAILED in its journal.
    """
    return run_together([config], command, [place] if place else None, [resumed] if resumed else None)[0]


def run_together(
    configs: Sequence[Config],
    command: list[str],
    places: Sequence[Place] | None = None,
    resumptions: Sequence[Resumption] | None = None,
) -> list[Outcome]:
    """``run`` for each of ``configs``, all in one training where they are several: a population (``population.py``).

    Raises:
        Unstackable: their networks cannot be trained at once; no run has begun.
        ConfigError, GradlabError: see ``run``.
    """
    began = time.perf_counter()
    first, place = configs[0], places[0] if places else None
    check_device_and_libraries(first)

    with place.interruption if place else Interruption() as interruption:
        # Folders and journals: from here on MLflow is imported and its store opened by a process beside this one.
        configs, chosen = _with_found_rates(configs, place, interruption, resumed=resumptions is not None)
        runs: list[RunRecord] = []
        with _end_recorded(runs, interruption), contextlib.ExitStack() as cleanup:
            for index, config in enumerate(configs):
                place_of = places[index] if places else None
                with interruption.postponed():  # a run that has begun has somebody who writes its end
                    runs.append(
                        RunRecord(config, command, place_of, resumptions[index] if resumptions else None, chosen[index])
                    )
            first_step = runs[0].first_step
            helpers = None
            if first.trainer.devices > 1:
                helpers = Helpers(first, runs[0].folder.path / "devices.log")
                cleanup.callback(helpers.end)

            # What data.download=true asks for, in this thread: a signal must be able to end it.
            first.data.fetch()

            # Data, while torch and Lightning are imported: seven seconds of imports on a slow machine.
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                loading = thread.submit(place.load, first.data) if place else thread.submit(first.data.load)
                from rich.console import Console

                from gradlab import console as terminal
                from gradlab import probe
                from gradlab.checkpoints import Checkpointer
                from gradlab.conclusion import Ending
                from gradlab.data.balance import ClassBalance
                from gradlab.data.sample import sample
                from gradlab.models.size import layer_table
                from gradlab.trained.network import images_record

                splits = loading.result()
            if len(splits.train) != first.spec.train_examples:
                raise DataError("The files of the data were changed while the run began. Start it again.")

            # The networks, their optimizers and schedules; the images; Lightning's Trainer.
            prepared = prepare(configs, splits, [run.journal for run in runs], first_step, runs[0].threads)
            learners, data, screen = prepared.learners, prepared.data, Console()
            cleanup.callback(data.close)
            ranks = None
            if helpers is not None:
                from gradlab.devices.ranks import Ranks

                ranks = learners[0].ranks = Ranks(0, helpers.size, helpers.port, first.trainer.sharding == "fsdp")
                cleanup.callback(ranks.leave)
            callbacks: list[pl.Callback] = [terminal.ProgressReport(screen)]
            callbacks += [place.report] if place else []
            endings: list[Ending] = []
            pause, steps = first.trainer.checkpoint_rhythm(first.horizon)
            share = first.trainer.checkpoint_share / len(runs)
            for run, learner in zip(runs, learners, strict=True):
                learner.point = run.point
                about = {
                    "config": run.config.composed,
                    "images": images_record(first.spec, data.normalization),
                    "data_sha256": splits.fingerprint,
                }
                anew = run.resumed.anew if run.resumed and run.resumed.fork else None
                beside = endings[0].checkpointer if endings else None
                checkpointer = Checkpointer(
                    learner, run.folder.checkpoints, pause, about, steps, run.checkpoint, anew, share, beside
                )
                of_all = (splits, data, prepared.calls, interruption, len(runs), began)
                endings.append(Ending(run, learner, checkpointer, *of_all))
                if every := first.trainer.probe_steps(first.horizon):
                    seen = sample(splits, data.normalization, probe.IMAGES, data.dtype)
                    callbacks.append(probe.LayerProbe(learner, seen, every, run.folder.layer_states, first_step))
            callbacks += [ending.checkpointer for ending in endings]
            module = _module(endings, places, interruption)
            validates_first = any(run.validates_first for run in runs)
            if helpers is not None:
                checkpoint = runs[0].checkpoint.path if runs[0].checkpoint else None
                helpers.train(
                    threads=prepared.threads,
                    first_step=first_step,
                    validate_first=validates_first,
                    checkpoint=str(checkpoint) if checkpoint else None,
                    anew=sorted(runs[0].resumed.anew) if runs[0].resumed and runs[0].resumed.fork else None,
                )
            trainer = lightning_trainer(first, callbacks, first_step, validates_first, ranks)
            device = _device_name(trainer.strategy.root_device)
            device = device if ranks is None else f"{ranks.size} × {device}"
            made_with = fingerprint(device, prepared.threads)
            for ending in endings:
                ending.checkpointer.about["fingerprint"] = made_with
            balance = ClassBalance.of(splits, first.spec.classes)
            for run in runs:
                run.know(device=device, threads=prepared.threads, data_sha256=splits.fingerprint)
                run.know(multiply_adds=prepared.calls[0].multiply_adds, population=len(runs))
                run.know(**({"plan": run.plan} if run.plan else {}))
                run.known["class_counts"] = balance.counts()
                run.journal.write("tags", tags={"gradlab.class_imbalance": f"{balance.ratio:.3g}"})
                run.folder.layers.parent.mkdir(exist_ok=True)
                run.folder.layers.write_text(layer_table(prepared.calls))
                run.journal.artifact(run.folder.layers, "model")
                if splits.skipped:
                    run.folder.write_skipped(splits.skipped)
                    run.journal.artifact(run.folder.skipped)
            where = data.place(trainer.strategy.root_device)
            lines = [*_headline(configs, splits, learners[0], device, where), splits.remark]

            # One run alone: eager steps, or those of one compiled function, which is compiled here.
            taken = "eager"
            if len(runs) == 1:
                speed, module.compiled = choose_speed(first, prepared, trainer, device, runs[0].kept_speed)
                taken, lines = speed.steps, [*lines, speed.line]
            for ending in endings:
                ending.checkpointer.about["speed"] = taken
                ending.run.know(speed=taken)
            lines += [line for run in runs for line in run.say(made_with, splits.fingerprint)]
            if notice := balance.notice():
                lines.append(f"{notice}; data.class_weights={first.data.class_weights}")
            screen.print("\n".join(filter(None, lines)), highlight=False, soft_wrap=True, markup=False)

            # Training.
            ready = time.perf_counter()
            for ending in endings:
                ending.ready = ready
            try:
                trainer.fit(module, datamodule=data)
            except RuntimeError as error:
                if helpers and (failure := helpers.failure()):
                    raise failure from error
                raise

            if len(runs) > 1:
                from gradlab.population import Population

                assert isinstance(module, Population)
                for ending in endings:
                    if module.steps != taken and not ending.run.over:
                        ending.run.know(speed=module.steps)
                if module.obstacle:
                    screen.print(f"eager steps: {module.obstacle}", highlight=False, soft_wrap=True, markup=False)

            # The only look at the test set, by the networks that validation chose.
            left = [(ending, ending.status()) for ending in endings if not ending.run.over]
            if ranks is not None:
                left = [(ending, ranks.status(status, trainer.strategy.root_device)) for ending, status in left]
            for ending, status in left:
                if status == "finished":
                    ending.checkpointer.restore_best()
            if any(status == "finished" for _, status in left):
                trainer.test(module, datamodule=data, verbose=False)
            for ending, _ in left:
                ending.checkpointer.make_whole()

            # The results, then what is only there to be looked at.
            for ending, status in left:
                ending.conclude(status)

    # What MLflow took, and the table.
    for run in runs:
        see = note = None
        if run.shipper is not None:
            shipped = run.shipper.finish()
            run.result |= {"mlflow_run_id": shipped.run_id, "mlflow_experiment_id": shipped.experiment_id}
            if shipped.pending:
                sync = environment.command("sync", str(run.folder.path))
                note = f"{shipped.pending:,} rows pending: {sync}\n(MLflow does not have them: {shipped.error})"
            else:
                see = environment.command("ui", *store_options(run.config.tracking))
            run.result["seconds"]["total"] = time.perf_counter() - began
            run.folder.write_result(run.result)
        terminal.print_results(screen, run.result, run.folder.path, see, note)
    return [_outcome(run, interruption) for run in runs]


def _with_found_rates(
    configs: Sequence[Config], place: Place | None, interruption: Interruption, resumed: bool
) -> "tuple[list[Config], list[Chosen | None]]":
    """What ``find_lr=true`` makes of configurations, and how it came to that. A run that is resumed has found its rate."""
    if resumed or not configs[0].find_lr:
        return list(configs), [None] * len(configs)
    from gradlab.finder.before import choose_rate

    chosen = [choose_rate(config, place.load if place else None, interruption) for config in configs]
    return [one.config for one in chosen], [*chosen]


def _module(endings: "Sequence[Ending]", places: Sequence[Place] | None, interruption: Interruption) -> "Classifier":
    """What Lightning trains: one run, or several at once. One that leaves the others has its end at once."""
    learners = [ending.learner for ending in endings]
    if len(learners) == 1:
        from gradlab.classifier import Classifier

        return Classifier(learners[0], interruption)
    from gradlab.population import Population

    def left(learner: "Learner") -> None:
        number = learners.index(learner)
        endings[number].leave()
        if places and (settled := places[number].settled):
            settled(_outcome(endings[number].run, interruption))

    first = endings[0].run.config
    seeds = [ending.run.config.seed for ending in endings]
    return Population(learners, seeds, interruption, left, first.trainer.speed)


def _outcome(run: RunRecord, interruption: Interruption) -> Outcome:
    status = run.result["status"]
    signum = interruption.signum if status == "killed" else None
    return Outcome(status, run.folder.path, run.result["metrics"], signum, run.result.get("reason"))


@contextlib.contextmanager
def _end_recorded(runs: Sequence[RunRecord], interruption: Interruption) -> Iterator[None]:
    """Whatever ends runs early is in their journals, in their results and in MLflow."""
    try:
        yield
    except BaseException as error:
        # Lightning turns a signal outside of training into SystemExit; without a signal it is the run's own sys.exit.
        quitting = isinstance(error, SystemExit) and not interruption() and type(error) is SystemExit
        killed = isinstance(error, KeyboardInterrupt | SystemExit) and not quitting
        for run in (run for run in runs if not run.over):
            run.end_early(
                "killed" if killed else "failed", "interrupted" if killed else f"{type(error).__name__}: {error}"
            )
        if quitting:
            raise GradlabError(f"The run ended itself by sys.exit({error.code!r}).") from error  # type: ignore[attr-defined]
        if isinstance(error, SystemExit):
            raise Interrupted(interruption.signum or signal.SIGINT) from error
        if runs and (told := full(error, Path(getattr(error, "filename", None) or runs[0].folder.path))):
            raise told from error
        if isinstance(error, RuntimeError):
            from gradlab.data.stream import is_lost_worker, lost_worker

            if is_lost_worker(error):
                raise lost_worker() from error
        if is_out_of_memory(error):
            raise GradlabError(
                f"There is not enough memory for this network and batch: {str(error).splitlines()[0]}. "
                "Choose a smaller model, a smaller data.batch_size, or another device."
            ) from error
        raise


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else environment.processor()


def _headline(configs: Sequence[Config], splits: "Splits", learner: "Learner", device: str, where: str) -> list[str]:
    """One line for what runs, and one for on what."""
    from gradlab.models.size import parameter_count

    config = configs[0]
    usual = ("uniform", "none")
    choices = " · ".join(
        [
            f"{config.model.name} ({parameter_count(learner.model):,} parameters)",
            f"{config.optimizer_name} lr={config.optimizer.lr:.6g}",
            *(
                choice.name
                for choice in (config.param_groups, config.wrapper, config.averaging)
                if choice.name not in usual
            ),
            f"{config.schedule.name} schedule",
            f"{config.init.name} init",
            f"seed {config.seed}",
        ]
    )
    if len(configs) > 1:
        choices = f"{len(configs)} runs at once, the first: {choices}"
    kind = "points" if config.spec.planar else "images"
    sizes = f"{len(splits.train):,} training, {len(splits.val):,} validation and {len(splits.test):,} test {kind}"
    data = f"{config.data.name}: {sizes} ({where}), batches of {config.batch_examples:,}, on {device}"
    return [choices, data]
