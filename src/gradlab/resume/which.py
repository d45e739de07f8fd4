"""Which run ``resume=RUN`` means: a run's folder, an MLflow run id, ``latest`` or ``auto``. Needs no torch."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from gradlab.errors import ConfigError, GradlabError
from gradlab.settings import without_secret
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.retaking import begun
from gradlab.tracking.store import open_client, tracking_uri


def find_folder(text: str, output_dir: Path, uri: str | None) -> RunFolder:
    """The run that ``text`` names.

    Args:
        text: a run's folder; an MLflow run id; or ``latest``, the run in ``output_dir`` that began last.
        output_dir: where runs make their folders.
        uri: MLflow store for a run id; None for the environment's or the default one.

    Raises:
        ConfigError: there is no such run, or it is none that could be gone on with.
        GradlabError: the MLflow store cannot be read.
    """
    path = Path(text).expanduser()
    if text == "latest" and not path.is_dir():
        folder = next(single_runs(output_dir), None)
        if folder is None:
            raise ConfigError(
                f"resume=latest: there is no run in {output_dir}. Start one: the same command without it."
            )
        return folder
    if not path.is_dir() and re.fullmatch("[0-9a-f]{32}", text):
        path = _of_mlflow(text, tracking_uri(uri))
    elif not path.is_dir():
        raise ConfigError(
            f"resume={text}: there is no such run. Name its folder, its MLflow run id (32 hexadecimal digits), or 'latest' for "
            f"the last one in {output_dir}."
        )
    if SweepFolder(path).record.is_file():
        raise ConfigError(
            f"resume={text}: that is a sweep. Its own command with -m and resume=true runs what is missing in it."
        )
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise ConfigError(f"resume={text}: that is no run's folder: it has no {folder.config.name}.")
    return folder


def single_runs(output_dir: Path) -> Iterator[RunFolder]:
    """The runs directly in ``output_dir`` that have their configuration written, those that began last first."""
    folders = [RunFolder(path.parent) for path in output_dir.expanduser().glob("*/config.yaml")]
    single = [folder for folder in folders if not SweepFolder(folder.path).record.is_file()]
    # Folders are named by the second they were made in, and numbered within it.
    yield from sorted(single, key=lambda folder: (folder.path.name[:19], _number(folder.path)), reverse=True)


def _number(path: Path) -> tuple[float, str]:
    """Of runs of one second, the order in which they were made."""
    return path.stat().st_ctime, path.name


def recorded(folder: RunFolder) -> dict[str, Any]:
    """The configuration that a run has written down.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        content = yaml.safe_load(folder.config.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder.config} cannot be read: {str(error).splitlines()[0]}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{folder.config} holds no configuration. The run ended as it began: start it anew.")
    return content


def result_of(folder: RunFolder) -> dict[str, Any]:
    """What ``result.json`` says; nothing where there is none."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(folder.result.read_text())
        if isinstance(content, dict):
            return content
    return {}


def of_a_sweep(folder: RunFolder) -> bool:
    first = begun(folder.journal)
    return first is not None and "point" in first[0]


def with_its_choices(arguments: Sequence[str], axes: Sequence[str], listed: str) -> list[str]:
    """The command line, with what Hydra must know of the run that ``resume=RUN`` names to take the other overrides.

    ``optimizer.momentum=0.8`` is a key that the default optimizer lacks: Hydra needs the run's choice as well. A run's
    name is quoted, because Hydra's grammar knows no ``=`` in values.
    """
    text = next((word.partition("=")[2] for word in arguments if word.startswith("resume=")), "")
    if not is_run(text) or any(word in ("-m", "--multirun") for word in arguments):
        return list(arguments)
    given = dict(word.split("=", 1) for word in arguments if "=" in word and not word.startswith("-"))
    words = [f"resume={_quoted(text)}" if word == f"resume={text}" else word for word in arguments]
    keyed = {key.lstrip("+~").split(".")[0] for key in given if "." in key}
    needed = [axis for axis in axes if axis in keyed and axis not in given]
    if text == "auto" or not needed:
        return words
    composed = recorded(find_folder(_bare(text), Path(given.get("output_dir", "outputs")), given.get("tracking.uri")))
    for axis in needed:
        part = composed.get(axis)
        names = [str(name) for name in part] if axis == listed and isinstance(part, dict) else None
        name = part.get("name") if isinstance(part, dict) and names is None else None
        if names is not None:
            words.append(f"{axis}=[{','.join(names)}]")
        elif isinstance(name, str):
            words.append(f"{axis}={name}")
    return words


def is_run(text: str) -> bool:
    """Whether the value of ``resume`` names a run; else it is about a sweep, or nothing."""
    return text.lower() not in ("", "true", "false", "null")


def _quoted(text: str) -> str:
    bare = _bare(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{bare}"'


def _bare(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _of_mlflow(run_id: str, uri: str) -> Path:
    try:
        run = open_client(uri).get_run(run_id)
    except Exception as error:  # whatever the store raises
        raise GradlabError(
            f"MLflow run {run_id} cannot be had from {without_secret(uri)}: {str(error).splitlines()[0]}"
        ) from error
    path = Path(run.data.tags.get("gradlab.folder", ""))
    if not path.is_absolute() or not path.is_dir():
        raise ConfigError(
            f"MLflow run {run_id} has its folder in {path} on {run.data.tags.get('gradlab.host', 'an unknown machine')}, which "
            f"{socket.gethostname()} does not see. Its checkpoints are there: copy the folder here and name it in resume=…"
        )
    return path
