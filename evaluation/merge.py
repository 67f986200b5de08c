"""Join the results of shards that ran on machines without a common folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from evaluation.results import UNUSABLE, ResultsFolder, list_results
from evaluation.table import write_csv


def merge_results(parts: Sequence[Path], results: Path) -> None:
    """Copy the contestants of several results folders into one, and write their tables anew.

    A case that several parts hold is taken from the last of them in which it could be evaluated.

    Raises:
        CaseError: a part holds no results, or two parts hold different contestants under one name.
    """
    for part in parts:
        if part.resolve() == results.resolve():
            continue  # Its results are there already.
        for source in list_results(part):
            target = ResultsFolder(results / source.path.name, source.identity)
            for result in source.read_all():
                target.discard(result.case, result.kind)  # Its label maps too, of which the newer one may have none.
            shutil.copytree(source.path, target.path, dirs_exist_ok=True)
    for folder in list_results(results):
        for result in folder.read_all():
            if result.scorable:
                folder.discard(result.case, UNUSABLE)
        write_csv(folder)
