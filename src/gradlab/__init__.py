"""gradlab: which optimizer, learning rate, schedule and initialisation train this image classifier best, and how sure?

Importing this package imports neither torch nor Lightning nor MLflow: a wrong configuration is answered before them.
"""

__version__ = "0.1.0"
