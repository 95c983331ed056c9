"""SIGTERM and SIGINT: an exception where nothing is lost by one, a mark where something would be."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ule_jax.errors import Interrupted
from ule_jax.runs.signals import CAUGHT, Signals, caught

pytestmark = pytest.mark.skipif(
  threading.current_thread() is not threading.main_thread(), reason='only the main thread gets signals'
)


def test_a_signal_raises_and_the_handlers_come_back():
  before = [signal.getsignal(number) for number in CAUGHT]
  for number in caught():
    with pytest.raises(Interrupted, match=f'{signal.Signals(number).name}; resumable'), Signals():
      os.kill(os.getpid(), number)
      time.sleep(1)
  assert [signal.getsignal(number) for number in CAUGHT] == before


def test_a_deferred_one_waits_for_the_end_of_the_block_or_the_next_item():
  done = []
  with pytest.raises(Interrupted), Signals() as signals, signals.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    done.append(signals.received)
  assert done == ['SIGTERM']
  with pytest.raises(Interrupted), Signals() as signals, signals.deferred():
    for item in signals.until_signal([1, 2, 3]):
      done.append(item)
      if item == 2:
        os.kill(os.getpid(), signal.SIGTERM)
  assert done == ['SIGTERM', 1, 2]


def test_one_that_python_drops_is_raised_again():
  """Exceptions in callbacks of the garbage collection, of which jax has one, are only printed."""

  def callback(phase, info):
    if phase == 'start':
      gc.callbacks.remove(callback)
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(Interrupted), Signals():
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(2)


def test_one_that_becomes_another_error_is_still_a_signal():
  with pytest.raises(Interrupted), Signals() as signals:
    try:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(1)
    except Interrupted:
      raise ImportError(signals.received) from None
  with pytest.raises(ImportError), Signals():
    raise ImportError


def test_a_second_one_exits_at_once():
  code = (
    'import os, signal, time\nfrom ule_jax.runs.signals import Signals\n'
    'with Signals() as signals, signals.deferred():\n'
    '  for _ in range(2):\n    os.kill(os.getpid(), signal.SIGINT)\n    print("still here", flush=True)\n'
  )
  ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, timeout=20)
  assert (ended.returncode, ended.stdout.splitlines()) == (75, ['still here'])
  assert 'resumable' in ended.stderr


def test_another_thread_leaves_the_handlers_alone():
  found = []

  def work():
    with Signals():
      found.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [signal.getsignal(signal.SIGTERM)]
