"""When a run goes to the place that `storage_path` names by URL, and when it comes from there."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.run_directory.remote import RemoteRuns, TakenOverError, UploadError

if TYPE_CHECKING:
    from pipeline.experiment.experiment import Experiment
    from pipeline.run_directory.directory import RunDirectory
    from pipeline.terminal import Console
    from pipeline.training.progress import Progress

logger = logging.getLogger(__name__)


def remote_places(experiments: Iterable[Experiment]) -> dict[str, list[str]]:
    """URL -> names of the experiments whose runs go there."""
    places: dict[str, list[str]] = {}
    for experiment in experiments:
        if experiment.remote and experiment.name not in places.setdefault(experiment.remote, []):
            places[experiment.remote].append(experiment.name)
    return places


def look_at_remote(url: str, names: Iterable[str], *, fetch: bool) -> None:
    """Checks that the place can be written; with `fetch`, brings the runs that another machine took further.

    Raises:
        InputError: the URL is not one, or nothing can be written there.
    """
    place = RemoteRuns(url)
    place.check()
    for name in names if fetch else ():
        place.fetch(name)


def upload_after_saving(url: str | None, run: RunDirectory, progress: Progress) -> None:
    """Uploads the run. A failure that may pass is told, and training goes on: the next upload has all of it.

    Raises:
        TakenOverError: another machine has gone on with the run.
    """
    if url is None:
        return
    try:
        RemoteRuns(url).upload(run)
    except TakenOverError:
        raise
    except UploadError as error:
        logger.info("%s", error)
        progress.message(f"not uploaded: {error}; trying again at the next checkpoint", style="yellow")


def upload_at_end(url: str | None, run: RunDirectory, console: Console) -> bool:
    """Uploads the run when all of its files are closed. Returns whether it is there, or stays here anyway."""
    if url is None:
        return True
    try:
        with console.status(f"uploading to {url} ..."):
            RemoteRuns(url).upload(run)
    except UploadError as error:
        console.print(f"not uploaded: {error}", style="red", soft_wrap=True)
        return False
    console.print(f"uploaded       {url} ({run.name}/{run.run_id})", soft_wrap=True)
    return True
