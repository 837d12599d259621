"""Section "Thresholds": from which probability on each label holds, where labels were not measured."""

from vidfit.report.folder import RunFolder
from vidfit.report.html import Child, element, folded, table
from vidfit.report.widgets import Colours


def thresholds(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing where the section of labels shows them, or the file has none."""
    if run.labels is not None or run.packed is None or not run.packed.thresholds:
        return []
    of_labels = run.packed.thresholds
    lowest, highest = min(of_labels.values()), max(of_labels.values())
    if lowest == highest:
        said = f"A label holds from probability {lowest:.3f} on, whichever it is."
    else:
        said = f"A label holds from its threshold on: {lowest:.3f} to {highest:.3f}."
    chosen = " They were chosen for the best F1 on videos that the models had not seen."
    rows = [(name, f"{threshold:.3f}") for name, threshold in of_labels.items()]
    shown = [] if lowest == highest else [folded(f"All {len(rows)} labels", table(("label", "threshold"), rows, ("label",)))]
    return [element("p", said, chosen), *shown]
