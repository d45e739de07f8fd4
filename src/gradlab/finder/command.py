"""``gradlab find-lr``: a learning rate for a configuration, with a picture and the numbers behind it."""

from pathlib import Path

from rich.console import Console

from gradlab.entry import compose
from gradlab.errors import ConfigError, GradlabError
from gradlab.interruption import Interruption


def find_lr(overrides: list[str], into: Path | None) -> int:
    """Search, print what was found, and write the picture into ``into`` with a JSON file beside it; returns 0.

    Raises:
        ConfigError: the configuration is wrong, or ``into`` is no PNG file in a folder that is there.
        GradlabError: the files cannot be written, or something outside the code failed.
        Interrupted: a signal asked for the end; nothing is written.
    """
    config = compose(overrides)
    model = getattr(config.model, "arch", config.model.name)
    into = into or Path(f"{config.optimizer_name.replace(' ', '_')}_{model}_{config.data.name}_find_lr.png")
    if into.suffix != ".png" or not into.absolute().parent.is_dir():
        raise ConfigError(f"--into={into} must name a .png file in a folder that is there.")
    from gradlab.prepare import check_device_and_libraries

    check_device_and_libraries(config)
    with Interruption() as interruption:
        config.data.fetch()
        from gradlab.finder.figure import draw
        from gradlab.finder.search import find
        from gradlab.finder.words import sentences

        found = find(config, config.data.load, interruption)
        try:
            draw(found, into)
            found.write(into.with_suffix(".json"))
        except OSError as error:
            raise GradlabError(f"The result cannot be written: {error}") from error
    console = Console()
    told = [*sentences(found), f"drawn in {into}, numbers in {into.with_suffix('.json')}"]
    console.print("\n".join(told), highlight=False, markup=False, soft_wrap=True)
    return 0
