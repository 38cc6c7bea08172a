"""Run the sweeps of `docs/results.md` and write the page: `make results`.

make results                            # everything that has not finished yet, then the page
make results ARGS="--only addition"     # one sweep, then the page
make results ARGS="--page"              # the page, from what has finished
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.results.data import Bed
from benchmarks.results.images import drawing
from benchmarks.results.page import write_page
from benchmarks.results.run import SOURCES, bring_to_its_end, state

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="make results"
    )
    names = [source.name for source in SOURCES]
    parser.add_argument("--only", choices=names, action="append", help="may be repeated; all without it")
    parser.add_argument("--page", action="store_true", help="run nothing")
    given = parser.parse_args()
    wanted = [] if given.page else [source for source in SOURCES if source.name in (given.only or names)]
    for number, source in enumerate(wanted, start=1):
        print(f"{source.sweep}, {number} of {len(wanted)}: {state(source.sweep)}", flush=True)
        bring_to_its_end(source)
    finished = {source.name: Bed(source) for source in SOURCES if state(source.judged) == "finished"}
    if not finished:
        raise SystemExit("no sweep of the page has finished: run make results")
    with drawing() as pictures:
        print(f"wrote {write_page(finished, DOCS, pictures)}")


if __name__ == "__main__":
    main()
