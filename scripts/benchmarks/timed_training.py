"""``train.py`` with the arguments after the first, which names a file: the processor seconds of its training and test are written there.

They are those of the training process, whatever else runs on the machine; MLflow's process beside it has its own.
"""

import gc
import sys
import time
from pathlib import Path
from typing import Any, cast

gc.disable()  # as train.py does


def main() -> None:
    from gradlab.entry import main

    gc.freeze()
    gc.enable()
    import gradlab.run  # imports no torch

    told, run = Path(sys.argv.pop(1)), cast(Any, gradlab.run)
    take = run.lightning_trainer

    def timed(*arguments: Any, **named: Any) -> Any:
        trainer = take(*arguments, **named)
        fit, test = trainer.fit, trainer.test
        began = 0.0

        def first(*given: Any, **also: Any) -> Any:
            nonlocal began
            began = time.process_time()
            return fit(*given, **also)

        def last(*given: Any, **also: Any) -> Any:
            done = test(*given, **also)
            told.write_text(str(time.process_time() - began))
            return done

        trainer.fit, trainer.test = first, last
        return trainer

    run.lightning_trainer = timed
    sys.exit(main())


if __name__ == "__main__":
    main()
