"""Train an image classifier, or sweep many.

python train.py                                                      handwritten digits: 97 % in seconds
python train.py optimizer=momentum optimizer.lr=0.05 schedule=step
python train.py data=mnist model=lenet                               99.2 %, about two minutes on two cores
python train.py -m optimizer=sgd,adam seed=0,1,2                     one run for each combination
python train.py --help                                               all choices and their numbers
"""

import gc
import sys

gc.disable()  # what is imported stays
from gradlab.entry import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    sys.exit(main())
