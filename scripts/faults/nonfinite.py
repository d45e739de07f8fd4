"""The loss stops being finite at a step that is known beforehand."""

from faults.commands import MODELS, QUICK, last_lines, result_of, run_in, start
from faults.comparison import differences
from faults.registry import Outcome, Setting, fault
from gradlab.tracking.store import open_client

TOTAL = 200_000
CHUNK = 5_000
"""Steps, far above what a chunk of a quarter of a second has of this model, and far below the run's."""


@fault(full=20)
def nonfinite(setting: Setting, number: int) -> Outcome:
    """non-finite loss: stopped within a chunk, and marked at the right step"""
    draw, folder = setting.draw(number), setting.place(number)
    value = ("nan", "inf", "-inf")[number % 3]
    at = draw.choice([1, 2, draw.randrange(3, 1000), draw.randrange(1000, 20_000)])
    uri = f"sqlite:///{setting.folder}/mlflow.db"
    process = start(
        folder, "--config-dir", str(MODELS), *QUICK, "imports=[strange]", "model=strange", f"model.at={at}",
        f"model.value={value}", "trainer.max_epochs=null", f"trainer.max_steps={TOTAL}", "optimizer=sgd",
        "init=default", "schedule=constant", "trainer.log_every=50 steps", MLFLOW_TRACKING_URI=uri,
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    if process.returncode != 0:
        return Outcome(value, False, f"at step {at:,}: exit status {process.returncode}: {err[-500:]}")
    run = run_in(folder / "outputs")
    result = result_of(run)
    said, lost = differences(run, uri)
    made = int((folder / "steps.txt").read_text()) - at
    tags = open_client(uri).get_run(result["mlflow_run_id"]).data.tags
    if result["status"] != "diverged" or result["diverged"]["step"] != at or result["steps"] != at:
        said.append(f"{result['status']} at {result['diverged']}, {result['steps']} steps")
    if tags.get("gradlab.diverged_at_step") != str(at) or "train/loss" not in tags.get("mlflow.note.content", ""):
        said.append("not marked in MLflow")
    if made > CHUNK:
        said.append(f"{made} steps after it")
    told = f"{last_lines(out, 'diverged at')} ({made} steps later it had stopped)"
    return Outcome(value, not said, "; ".join(said) or told, lost)
