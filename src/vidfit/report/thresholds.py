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
        said = f"Each label holds from probability {lowest:.3f} on."
    else:
        said = f"Each label holds from its own threshold on, from {lowest:.3f} to {highest:.3f}."
    if run.fit:
        said += " This was chosen on videos that the models had not seen."
    if run.fit and run.fit.decisions.precision is not None:
        said += " thresholds.csv has each label's precision and recall on these."
    if lowest == highest:
        return [element("p", said)]
    rows = [(name, f"{threshold:.3f}") for name, threshold in of_labels.items()]
    return [element("p", said), folded(f"All {len(rows)} labels", table(("label", "threshold"), rows, ("label",)))]
