"""Files from the Hugging Face Hub, through its own client: its cache, settings and resuming are as always."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from likeness.disk import check_room, full_disk_told
from likeness.errors import UserError

# Is entered, with a line for the user, around a download, which shows a bar of the client's on a terminal.
Announce = Callable[[str], AbstractContextManager[object]]


def fetch(repo: str, patterns: list[str], way_out: str, announce: Announce = nullcontext) -> Path:
    """The folder of a repository in the client's cache, with the files that match.

    What is in the cache is not fetched again, and will do where the Hub cannot be reached.

    Args:
        repo: owner/name.
        patterns: of the files that are wanted.
        way_out: for the message without a network: what to do with files that were fetched elsewhere.
        announce: called only where something has to be fetched.

    Raises:
        UserError: without a network, for a repository or file that is not there, or a disk with too little space.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        try:
            lacking = [
                file for file in snapshot_download(repo, allow_patterns=patterns, dry_run=True) if file.will_download
            ]
        except DryRunError as error:  # the Hub cannot be reached, which is the cause
            try:
                return Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=True))
            except OSError:
                raise error.__cause__ or error from None
        size = sum(file.file_size or 0 for file in lacking)
        if not lacking:
            return Path(snapshot_download(repo, allow_patterns=patterns))
        cache = Path(constants.HF_HUB_CACHE)
        check_room(cache, size, "set HF_HOME to a folder on another disk")
        with (
            full_disk_told(cache),
            announce(
                f"{repo} from the Hugging Face Hub: {len(lacking)} file{'s' * (len(lacking) > 1)}, {size / 1e9:.1f} GB"
            ),
        ):
            return Path(snapshot_download(repo, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:  # the client's own, its transport's or the socket's, which have no class in common
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else lines[0]
        raise UserError(
            f"{repo} on the Hugging Face Hub cannot be fetched from {constants.ENDPOINT} ({reason}). Fetch it where "
            f"there is a network and {way_out}."
        ) from error
