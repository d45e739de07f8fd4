"""What MLflow's pages show of runs: saved views, which it keeps as tags of the experiment.

A saved view is the state of MLflow's own page, as its front end of version 3.17 writes it; it has no interface for that. It is
opened by its key in the address, ``?viewStateShareKey=<key>``. A front end that does not know it shows its usual page.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

RUNS = "gradlab"
"""Key of the view of all runs as a table: accuracies and choices as columns, where MLflow's own first view has neither."""
TAG = "mlflow.sharedViewState."
LOGARITHM = "log10_"
"""MLflow's charts have linear axes only, so a learning rate is there as its logarithm, too."""
RUNS_SHOWN = 100


def runs_view() -> dict[str, str]:
    """The experiment's tag that holds the table of all runs."""
    columns = [
        *(f"metrics.`{name}`" for name in ("test/accuracy", "best/val_accuracy", "final/train_loss")),
        *(f"params.`{name}`" for name in ("optimizer.name", "optimizer.lr", "schedule.name", "model.name", "seed")),
        "tags.`gradlab.status`",
    ]
    return {TAG + RUNS: json.dumps({**_facets("", "attributes.start_time"), "selectedColumns": columns})}


def charts_key(run_id: str) -> str:
    """Key of the view of a sweep's charts, by its parent run."""
    return f"sweep-{run_id}"


def charts_view(run_id: str, swept: Sequence[str]) -> dict[str, str]:
    """The experiment's tag that holds the charts of a sweep's runs, all of them and none but them.

    Args:
        run_id: of the parent run.
        swept: keys of the configuration in which the points differ.
    """
    axes = [f"{LOGARITHM}lr" if key == "optimizer.lr" else key for key in swept]
    charts = [
        *(
            _chart(
                "SCATTER", xaxis={"key": axis, "type": "PARAM"}, yaxis={"key": "best/val_accuracy", "type": "METRIC"}
            )
            for axis in axes
            if axis.startswith(LOGARITHM)
        ),
        _chart("PARALLEL", selectedParams=axes, selectedMetrics=["best/val_accuracy"], showAllRuns=True),
        _curve("train/loss", "log"),
        _curve("val/accuracy", "linear"),
    ]
    section = {"uuid": "sweep", "name": "Sweep", "display": True, "isReordered": True, "deleted": False}
    state = {
        **_facets(f"tags.mlflow.parentRunId = '{run_id}'", "metrics.`best/val_accuracy`"),
        "selectedColumns": ["metrics.`best/val_accuracy`", *(f"params.`{axis}`" for axis in axes)],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [{**chart, "uuid": f"chart-{number}"} for number, chart in enumerate(charts)],
        "compareRunSections": [{**section, "isGenerated": False, "columns": 2, "cardHeight": 360}],
        "isAccordionReordered": True,  # the sweep's own section first
        "autoRefreshEnabled": False,
    }
    return {TAG + charts_key(run_id): json.dumps(state)}


def logarithms(params: Mapping[str, Any]) -> dict[str, str]:
    """What a run's parameters need beside them for a logarithmic axis."""
    rate = params.get("optimizer.lr")
    try:
        return {f"{LOGARITHM}lr": f"{math.log10(float(rate)):.6g}"} if rate is not None else {}
    except ValueError:  # no positive number
        return {}


def _facets(search: str, order: str) -> dict[str, Any]:
    """Which runs a view shows, in which order."""
    return {
        "searchFilter": search,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _chart(kind: str, **of_its_own: Any) -> dict[str, Any]:
    common = {"type": kind, "metricSectionId": "sweep", "deleted": False, "isGenerated": False}
    return {**common, "runsCountToCompare": RUNS_SHOWN, **of_its_own}


def _curve(metric: str, scale: str) -> dict[str, Any]:
    """A metric against the optimizer step, a line for each run."""
    return _chart(
        "LINE",
        metricKey=metric,
        selectedMetricKeys=[metric],
        scaleType=scale,
        lineSmoothness=0,
        xAxisKey="step",
        xAxisScaleType="linear",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
        ignoreOutliers=False,
        useGlobalXaxisKey=False,
        useGlobalLineSmoothing=False,
    )
