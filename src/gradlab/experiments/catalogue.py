"""All experiments, in the order in which one learns from them."""

from gradlab.experiments import (
    deepobs,
    depth,
    gradient_checking,
    initialisation,
    learning_rate,
    optimizer_study,
    optimizers,
    own_pictures,
    regularisation,
    schedules,
)
from gradlab.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        learning_rate,
        depth,
        initialisation,
        gradient_checking,
        regularisation,
        optimizers,
        schedules,
        own_pictures,
        optimizer_study,
        deepobs,
    )
}
