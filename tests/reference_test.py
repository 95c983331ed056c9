"""Tables of options in the pages are those of the declarations."""

import re

import pytest

from ule_jax.config import reference, schema
from ule_jax.data import DATASETS, pipeline
from ule_jax.devices.mesh import PARALLEL
from ule_jax.methods import METHODS
from ule_jax.models import BATCH_NORMS, Model, layers
from ule_jax.options import meta
from ule_jax.two_stage import TWO_STAGE


@pytest.mark.parametrize('page', ['docs/reference/config.md'])
def test_tables_are_those_of_the_declarations(page, root):
  text = (root / page).read_text()
  assert reference.SLOT.search(text)
  assert reference.splice(text) == text, f'run python -m ule_jax.config.reference {page}'


def test_the_page_has_every_option(root):
  text = (root / 'docs' / 'reference' / 'config.md').read_text()
  for name in schema.every_option():
    assert f'`{name.rpartition(".")[2]}`' in text or name in ('data.name', 'method.name'), name
  for name in (*METHODS, *TWO_STAGE, *DATASETS):
    assert re.search(rf'^###? .*`(two_stage.)?{name}`', text, re.MULTILINE) or name == 'cnc', name


def test_every_option_has_a_meaning():
  for name, field in schema.every_option().items():
    assert field.description, name
    assert len(field.description) < 200, name


def test_choices_are_those_of_the_code_that_reads_them():
  fields = schema.every_option()
  tables = {
    'model.precision': layers.PRECISIONS,
    'model.head_init': layers.HEAD_INITS,
    'model.batch_norm': layers.BATCH_NORMS,
    'train.sampling': pipeline.SAMPLINGS,
    'parallel': PARALLEL,
  }
  for name, table in tables.items():
    assert meta(fields[name]).choices == tuple(table), name
  assert meta(Model.model_fields['batch_norm']).choices == BATCH_NORMS
