"""Draw the figures of docs/results/robustness.md: `python -m docs.images.robustness`."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt

from benchmarks.robustness.tables import ROWS, measured

FOLDER = Path(__file__).parent

# figure -> setting -> title
FIGURES = {
  'images': {'digits': 'digits, a tint', 'dominoes': 'dominoes', 'dominoes_random': 'dominoes, sides at random'},
  'faces': {'celeba_wavy': 'Wavy_Hair', 'celeba_attractive': 'Attractive', 'celeba_nose': 'Big_Nose'},
  'faces_tuned': {'celeba_tuned': 'Attractive', 'celeba_tuned_wavy': 'Wavy_Hair, unseen'},
  'unseen': {
    'digits_patch': 'digits, a square',
    'digits_place': 'digits, the photograph',
    'celeba_bags': 'Bags_Under_Eyes',
    'celeba_young': 'Young',
    'celeba_cheekbones': 'High_Cheekbones',
    'celeba_smiling': 'Smiling',
  },
  'rare': {
    'digits_99.5': 'tint, 1 in 200 breaks it',
    'digits_100': 'tint, none breaks it',
    'digits_patch_100': 'square, none breaks it',
    'dominoes_100': 'dominoes, none breaks it',
  },
}
COLORS = {
  'erm': '#57606a',
  'lff': '#57606a',
  'gradient_penalty': '#57606a',
  'mistakes': '#57606a',
  'mistakes_gradient_penalty': '#57606a',
  'mistakes_shuffled_signed': '#57606a',
  'ule_default': '#d1242f',
  'mistakes_ule_signed': '#d1242f',
  'ule_signed': '#d1242f',
  'group_dro': '#0969da',
  'group_balanced': '#0969da',
}
NAMES = {
  'ule_default': 'ULE, default options',
  'ule_signed': 'ULE, tuned, no mistakes',
  'mistakes_ule_signed': 'ULE, tuned',
  'mistakes_shuffled_signed': 'control: mistakes + shuffled',
  'group_dro': 'GroupDRO (group labels)',
  'group_balanced': 'group-balanced (group labels)',
}
PANELS = 3  # in a row


def draw(name: str) -> plt.Figure:
  """Draw the panels of a figure: worst group with its spread over seeds, and accuracy."""
  settings = FIGURES[name]
  rows = [row for row in COLORS if any((setting, row) in measured() for setting in settings)]
  down = -(-len(settings) // PANELS)
  across = -(-len(settings) // down)
  size = (2.2 + 2.1 * across, 0.5 + (0.55 + 0.2 * len(rows)) * down)
  figure, axes = plt.subplots(down, across, figsize=size, sharey=True, sharex=True, squeeze=False)
  for axis in axes.flat[len(settings) :]:
    axis.remove()
  for axis, (setting, title) in zip(axes.flat, settings.items()):
    axis.set_title(title, fontsize=9, loc='left')
    axis.axvline(50, color='#d0d7de', linewidth=1, zorder=0)
    for y, row in enumerate(rows):
      if result := measured().get((setting, row)):
        worst, accuracy = 100 * result.last, 100 * result.accuracy.mean()
        axis.plot([worst.mean(), accuracy], [y, y], color='#d0d7de', linewidth=1, zorder=1)
        axis.errorbar(worst.mean(), y, xerr=worst.std(ddof=1), fmt='o', color=COLORS[row], markersize=4.5, linewidth=1)
        axis.plot(accuracy, y, 'o', markerfacecolor='white', color=COLORS[row], markersize=4)
    axis.set_yticks(range(len(rows)), [NAMES.get(row, ROWS[row].heading) for row in rows], fontsize=8)
    axis.set(xlim=(-3, 103), ylim=(len(rows) - 0.5, -0.5), xticks=(0, 50, 100))
    axis.tick_params(labelsize=8, length=0)
    axis.spines[['top', 'right', 'left']].set_visible(False)
  figure.supxlabel('filled: worst group, %; hollow: accuracy, %', fontsize=8)
  figure.tight_layout(pad=0.6)
  return figure


def main() -> None:
  """Draw every figure."""
  for name in FIGURES:
    figure = draw(name)
    figure.savefig(FOLDER / f'robustness_{name}.png', dpi=130, pil_kwargs={'optimize': True})
    plt.close(figure)


if __name__ == '__main__':
  main()
