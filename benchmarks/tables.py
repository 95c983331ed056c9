"""Insert the tables of benchmarks/results into the pages, between their marks.

  python -m benchmarks.tables                rewrite the tables of all pages
  python -m benchmarks.tables --check        name the pages whose tables are not those of the results; exit code 1
  python -m benchmarks.tables --print=step   print one

A page that has the lines `<!-- table: NAME -->` and `<!-- end -->` gets the table between them, wherever it is.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import harness
from benchmarks.robustness import tables as robustness
from benchmarks.speed import tables as speed

TABLES = robustness.TABLES | speed.TABLES


def pages() -> list[Path]:
  """Return the pages that may have tables."""
  return [harness.ROOT / 'README.md', *sorted((harness.ROOT / 'docs').rglob('*.md'))]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--check', action='store_true')
  parser.add_argument('--print', choices=TABLES)
  args = parser.parse_args()
  if args.print:
    print(TABLES[args.print]())
    return
  stale = []
  for page in pages():
    text = page.read_text()
    if text != (new := harness.splice(text, TABLES)):
      stale.append(str(page.relative_to(harness.ROOT)))
      if not args.check:
        page.write_text(new)
  if stale:
    print(f'{"not of the results" if args.check else "written"}: {", ".join(stale)}')
  sys.exit(args.check and bool(stale))


if __name__ == '__main__':
  main()
