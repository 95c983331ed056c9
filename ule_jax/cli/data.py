"""Check a data set before training on it: `python -m ule_jax.data --config=configs/celeba.py`."""

from __future__ import annotations

from collections.abc import Sequence

from ule_jax.cli.flags import parse
from ule_jax.data import ON_BAD_IMAGE, read
from ule_jax.data.checks import Scan, differences, remarks, scan_images
from ule_jax.data.sheets import contact_sheets, counts_table
from ule_jax.errors import UserError, unknown
from ule_jax.paths import output_path

USAGE = """\
Check a data set: its counts against the release, every image, and a picture of each group.

  python -m ule_jax.data --config=configs/waterbirds.py --config.data.dir=DIR

  --config=FILE                  a file, or the name of a shipped config
  --config.data.FIELD=VALUE      change a field; official=False warns of other counts than the release's instead of
                                 failing, on_bad_image=skip warns of images that cannot be decoded
  --out=DIR                      folder for the contact sheets (default sheets/<config>)
  --images=false                 do not decode every image

Exit codes: 0 no problem, 2 a problem, which is named."""


def main(argv: Sequence[str]) -> None:
  """Print the counts, the problems and the folder of the contact sheets.

  Raises:
    UserError: the counts differ from the release, or an image cannot be decoded.
  """
  flags = parse(argv, USAGE, {'out': '', 'images': True})
  out = output_path(flags.values['out'] or f'sheets/{flags.name}', '--out')
  options = dict(flags.config.data)
  name = options.pop('name')
  strict, on_bad_image = options.pop('official', True), options.pop('on_bad_image', 'fail')
  if on_bad_image not in ON_BAD_IMAGE:
    raise unknown('data.on_bad_image', on_bad_image, ON_BAD_IMAGE)
  dataset = read(name, options)
  print(counts_table(dataset))
  if dataset.remarks:
    print('\n' + '\n'.join(dataset.remarks))
  wrong = []
  if differing := differences(dataset):
    print(f'\nother counts than the release of {name}:\n' + '\n'.join(f'  {text}' for text in differing))
    if strict:
      wrong.append('the counts differ from the release (--config.data.official=False makes this a warning)')
  elif dataset.official:
    print(f'\nall counts are those of the release of {name}')
  scans: dict[str, Scan] = {}
  if flags.values['images']:
    for split, content in dataset.splits.items():
      scans[split] = scan_images(content)
    problems = [text for scan in scans.values() for text in scan.bad.values()]
    print(f'\n{len(problems)} images cannot be decoded' + ''.join(f'\n  {text}' for text in problems))
    if problems and on_bad_image == 'fail':
      wrong.append(f'{len(problems)} images cannot be decoded (--config.data.on_bad_image=skip leaves them out)')
    for text in remarks(scans.values(), dataset.decoding):
      print(f'warning: {text}')
  try:
    sheets = contact_sheets(dataset, out, {split: scan.bad for split, scan in scans.items()})
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  print(f'\n{len(sheets)} contact sheets in {out}')
  if wrong:
    raise UserError(f'{name} is not as it should be: {"; ".join(wrong)}.')
