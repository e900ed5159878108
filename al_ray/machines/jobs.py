"""Ray's jobs: what goes up with one, and how it is submitted and followed."""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Final
from zipfile import ZipFile

from ray._private import ray_constants
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from al_ray.errors import Problem, UserError, in_a_line

LEAVE_SECONDS: Final = 180
"""That a job which is stopped has to write its checkpoint; Ray would kill it after 3."""
_SECRET: Final = (".env*", ".netrc", ".pgpass", "*.pem", "*.key", "id_rsa", "id_ed25519", "*credentials*")
"""Names of files that seldom are for others."""
_LARGEST: Final = 3
"""Files that are named."""
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Upload:
    """What goes up with a job: all of a folder that no ``.gitignore`` or ``.rayignore`` in it names."""

    files: Mapping[str, int]
    """Bytes, by the path below the folder."""
    packed: int
    """Bytes of all of them, as they are sent."""

    @property
    def secrets(self) -> Sequence[str]:
        """The files that look as if nobody else should read them."""
        names = {file: PurePosixPath(file).name for file in self.files}
        return [file for file, name in names.items() if any(fnmatch(name, each) for each in _SECRET)]

    def __str__(self) -> str:
        largest = sorted(self.files.items(), key=lambda file: -file[1])[:_LARGEST]
        named = ", ".join(f"{file} {size / _MIB:.1f} MiB" for file, size in largest)
        return f"{len(self.files)} files, {self.packed / _MIB:.1f} MiB packed; the largest: {named}"


def upload_of(folder: Path) -> Upload:
    """What Ray would take of the folder, packed as Ray does it. Raises ``UserError`` if that is too much."""
    silent = logging.Logger("packing", logging.CRITICAL)  # it speaks of options of ray.init
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "package.zip"
        create_package(
            str(folder),
            package,
            include_gitignore=os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
            excludes=ray_constants.get_runtime_env_default_excludes(),
            logger=silent,
        )
        with ZipFile(package) as zipped:
            files = {each.filename: each.file_size for each in zipped.infolist() if not each.is_dir()}
        found = Upload(files, package.stat().st_size)
    if found.packed >= GCS_STORAGE_MAX_SIZE:
        cure = (
            f"Ray takes {GCS_STORAGE_MAX_SIZE / _MIB:.0f} MiB at most, not {found}: name what the job does "
        )
        raise UserError(Problem("--working-dir", str(folder), f"{cure}not need in .rayignore there"))
    return found


class Jobs:
    """Those of the cluster whose dashboard is at ``address``. Raises ``UserError`` where none answers."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            cure = "must be that of Ray's dashboard, for example http://HEAD:8265"
            raise UserError(Problem("--address", address, cure))
        # Ray would ask RAY_ADDRESS, whatever it is told.
        os.environ[ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE] = address
        logging.getLogger("ray.dashboard.modules").setLevel(logging.WARNING)
        self._address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            cure = "asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's"
            raise UserError(Problem("--address", address, cure)) from error
        except (OSError, RuntimeError, ValueError) as error:
            cure = f"no dashboard of Ray answers there: {in_a_line(error)}"
            raise UserError(Problem("--address", address, cure)) from error

    def submit(self, command: Sequence[str], folder: Path) -> str:
        """The id of the job, which is ``command`` in a copy of the folder."""
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(LEAVE_SECONDS)}
        return self._client.submit_job(
            entrypoint=shlex.join(command), runtime_env={"working_dir": str(folder), "env_vars": variables}
        )

    def follow(self, job: str) -> AsyncIterator[str]:
        """What it writes, until it has ended."""
        return self._client.tail_job_logs(job)

    def details(self, job: str) -> JobDetails:
        return self._client.get_job_info(job)

    def line(self, verb: str, job: str) -> str:
        """The command of Ray's that does this to the job."""
        return shlex.join(["ray", "job", *verb.split(), "--address", self._address, job])


def exit_code(ended: JobDetails) -> int:
    """What a command that was this job would end with."""
    if ended.status is JobStatus.SUCCEEDED:
        return 0
    return 130 if ended.status is JobStatus.STOPPED else ended.driver_exit_code or 1
