"""The tables of the pages are those of benchmarks/results, and show what they showed before."""

import subprocess
import sys

import pytest

from benchmarks import harness, tables
from benchmarks.robustness import plan
from benchmarks.robustness import tables as robustness

PAGES = tables.pages()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_results(page):
  text = page.read_text()
  assert harness.splice(text, tables.TABLES) == text, 'make them anew: python -m benchmarks.tables'


def test_every_table_is_on_a_page():
  text = ''.join(page.read_text() for page in PAGES)
  for name in tables.TABLES:
    assert text.count(f'<!-- table: {name} -->') == 1, name


def test_no_mark_is_left_without_its_end():
  for page in PAGES:
    text = page.read_text()
    assert text.count('<!-- table: ') == len(harness.SLOT.findall(text)), page
    assert text.count('<!-- table: ') + text.count('<!-- options: ') == text.count('<!-- end -->'), page


def cells(name):
  """The rows of a table by their first cells."""
  lines = [[cell.strip() for cell in line.strip()[1:-1].split('|')] for line in tables.TABLES[name]().splitlines()]
  return {line[0]: line[1:] for line in lines if len(line) > 1}


def test_numbers_are_those_that_were_published():
  """Cells of the pages before results were keyed by ids (9ab16cd)."""
  assert cells('robustness_chosen_on')['**ULE, one default**'] == [
    '92.2 ± 1.8 (95)', '93.0 ± 0.6 (95)', '89.7 ± 1.2 (92)', '45.4 ± 2.6 (68)', '45.9 ± 3.0 (65)', '31.5 ± 3.4 (63)',
    '53.6 ± 2.8 (70)',
  ]  # fmt: skip
  assert cells('robustness_unseen')['default, control: mistakes alone'][1] == '79.2 ± 7.7 (91)'
  assert cells('robustness_rare')['GroupDRO (needs groups)'] == ['81.5 ± 2.7 (85)', '', '', '']
  assert cells('robustness_changes')['default, student averaged over 4 shifts'][2] == ''
  assert cells('methods')['`lff`'] == ['-', '4', '85.4', '70.4 ± 10.9', '64.8', '71.0', '1.6, 2.0']
  assert cells('methods')['`dfr`'] == ['validation', '1', '94.9', '93.5 ± 0.9', '93.5', '93.5', 'a fit']
  details = tables.TABLES['robustness_details']()
  assert (
    '`celeba_tuned_wavy`: CelebA, Wavy_Hair, ResNet-20, fine-tuned for 120 steps; seeds 10, 11, 12, 13, 14' in details
  )
  row = next(line for line in details.splitlines() if line.startswith('| ULE, mistakes + `oppose_signed`'))
  assert [cell.strip() for cell in row.split('|')[2:-1]] == [
    '95.0', '93.7 ± 1.0', '88.7 ± 2.6', '93.8 ± 0.9', '8: mistake_share 0.7, weight 0.1, a 0.3', '-1.5 [-2.3, -0.8]',
  ]  # fmt: skip
  assert cells('step')['`resnet20`, 64 of 32 x 32, float32'][5:7] == ['3.34', '1.05']
  assert cells('step_rivals')['`vit_b16`, 2 of 224 x 224, float32'][0] == 'not run: 1.9 GiB of state on each'
  assert cells('memory')['`resnet50`, batch 16, bfloat16'] == ['5.14', '2.08', '-59%', '1.74 times']
  assert cells('population')['linear'] == ['0.11 (0.10-0.13)', '36.8 (31.2-40.0)', '29.7 (26.6-32.6)']
  assert cells('input_pipeline')['ours, antialias, folder'] == ['1,776 (1,742-1,791)', '0.60', '1.06']


def test_results_are_of_rows_that_the_plan_has():
  rows, settings = plan.load_rows(), plan.load_settings()
  of_plan = {(setting.id, row.id) for setting in settings.values() for row, _ in plan.rows_of(setting, rows)}
  assert robustness.measured().keys() <= of_plan
  for (setting, row), result in robustness.measured().items():
    assert result.seeds == settings[setting].fresh_seeds, (setting, row)


def test_results_are_small(root):
  assert sum(path.stat().st_size for path in (root / 'benchmarks' / 'results').rglob('*.jsonl')) < 400_000


def test_the_command_names_pages_that_are_not_of_the_results(tmp_path, monkeypatch, capsys):
  (tmp_path / 'docs').mkdir()
  page = tmp_path / 'README.md'
  page.write_text('<!-- table: memory -->\n<!-- end -->\n')
  monkeypatch.setattr(harness, 'ROOT', tmp_path)
  for argv, code, words in (
    (['--check'], 1, 'not of the results: README.md'),
    ([], 0, 'written: README.md'),
    (['--check'], 0, ''),
  ):
    monkeypatch.setattr(sys, 'argv', ['tables', *argv])
    with pytest.raises(SystemExit) as end:
      tables.main()
    assert (int(end.value.code or 0), capsys.readouterr().out.strip()) == (code, words)
  assert '`vit_s16`' in page.read_text()


def test_a_table_is_printed(root):
  command = [sys.executable, '-m', 'benchmarks.tables', '--print=population']
  output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
  assert output.strip() == tables.TABLES['population']()
