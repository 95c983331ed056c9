"""Methods of two stages, by the name that configs use: what the second run is given by the first."""

from __future__ import annotations

from ule_jax.two_stage import afr, cnc, dfr, eiil, jtt, spare
from ule_jax.two_stage.contract import FirstRun, SecondStage

# config.first.prepare -> the second stage, computed from a finished first run
TWO_STAGE = {
  'jtt': jtt.prepare,
  'eiil': eiil.prepare,
  'spare': spare.prepare,
  'cnc': cnc.prepare,
  'dfr': dfr.prepare,
  'afr': afr.prepare,
}
REFITS = ('dfr', 'afr')  # those that refit the last layer, and leave nothing to train

__all__ = ['REFITS', 'TWO_STAGE', 'FirstRun', 'SecondStage']
