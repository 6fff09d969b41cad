"""Pictures for the asset pages: small PNGs, 648 pixels wide, readable with ten labels and with ten thousand.

matplotlib is imported when one is drawn. Every picture of nothing says that there is nothing.
"""

from gbif_platform.plots.bars import bars, class_distribution, subset_balance
from gbif_platform.plots.funnel import funnel
from gbif_platform.plots.maps import sample_map
from gbif_platform.plots.timeline import timeline

__all__ = ["bars", "class_distribution", "funnel", "sample_map", "subset_balance", "timeline"]
