"""What `everlong read` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups

_KEEPS_ALL = groups.MethodChoice(method="blocks")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Read files into a session that is kept on the disk.

    Text in any encoding, Markdown, source code, HTML (its main text), PDF, EPUB, DOCX, ODT, notebooks, mbox and mail;
    most need the extra everlong[documents]. Of a folder all these are read but what is hidden or ignored by .gitignore,
    and what was skipped is counted. Of a text that has grown since (a log) only what was added is read.

    What was read is kept every half minute and where Ctrl-C or SIGTERM ends it, after the chunk that is being read; the
    same command goes on from there. Files that were read already are skipped unless they have changed. What a changed
    file was is dropped, and it is read at the end; files that were read after it keep traces of what it was.
    With --reread there are none: the whole session is read again, which takes as long as reading took and twice the
    room on the disk until it is done. --notes helps with questions on whole chapters and texts, as far as the model can
    summarise; it takes longer than reading (--dry-run says how long), goes on where it was interrupted, and its notes
    are the source "notes: FILE". --json prints one object: session, tokens, seconds, tokens_per_s, peak_rss_bytes
    the memory report and skipped (files by kind); with --notes also what they took.
    """

    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, folders, patterns; - for stdin.")]
    encoding: groups.Encoding = None
    kept: groups.KeptSession
    reread: Annotated[
        bool, typer.Option("--reread", help="Where a file has changed, build the session anew: reads all of it again.")
    ] = False
    notes: Annotated[
        bool,
        typer.Option("--notes", help="Let the model write notes: on each part, and on the notes, up to the whole."),
    ] = False
    images: Annotated[
        bool,
        typer.Option("--images", help="Read image files too, and the pictures of PDF files behind their text."),
    ] = False
    host_budget: groups.HostBudget = None
    disk_budget: groups.DiskBudget = None
    encoder: groups.Encoder = None
    when_full: groups.WhenFull = "refuse"
    allow_special: groups.AllowSpecial = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what reading would take, and read nothing.")] = False
    model: groups.ModelChoice
    method: groups.MethodChoice = _KEEPS_ALL
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: groups.Config = None
    report: groups.Report = False
    output: groups.Output
