"""Train an image classifier, or sweep many.

python train.py                                                      handwritten digits: 97 % in seconds
python train.py optimizer=momentum optimizer.lr=0.05 schedule=step
python train.py data=mnist model=lenet                               99.2 %, about two minutes on two cores
python train.py -m optimizer=sgd,adam seed=0,1,2                     one run for each combination
python train.py --help                                               all choices and their numbers
"""

import sys

from gradlab.entry import main

if __name__ == "__main__":
    sys.exit(main())
