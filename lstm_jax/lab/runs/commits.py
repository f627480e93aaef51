"""Git commits of files."""

import subprocess
from pathlib import Path


def commit_of(file: Path, scope: str) -> str:
    """Return the commit of the checkout that tracks a file, or "" if there is none.

    "+" follows if files in `scope`, a pathspec of Git relative to the folder of the
    file, have uncommitted changes.
    """
    commands = (
        ["ls-files", "--", file.name],
        ["rev-parse", "--short=12", "HEAD"],
        ["status", "--porcelain", "--", scope],
    )
    try:
        tracked, commit, changes = (
            subprocess.run(
                ["git", "-C", file.parent, *command],
                capture_output=True,
                text=True,
                timeout=5,
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return commit + ("+" if changes else "") if tracked and commit else ""
