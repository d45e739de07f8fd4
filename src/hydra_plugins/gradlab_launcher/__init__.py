"""The plugins through which Hydra reaches ``gradlab.sweeps``. Hydra imports them at every start, so they import next to nothing."""
