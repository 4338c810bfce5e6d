"""What a cell of a transfer matrix reads follows from its score, interval and p-value."""

from __future__ import annotations

import pandas as pd
import pytest

from llmprobe.results.columns import TRANSFER
from llmprobe.results.transfer import with_answers


@pytest.mark.parametrize(
    ("auroc", "p", "reads"),
    [
        (0.7, 0.05, "yes"), (0.3, 0.05, "opposite"), (0.7, 0.051, "unclear"),
        (0.5, 0.05, "no"), (float("nan"), float("nan"), "not defined"),
    ],
)  # fmt: skip
def test_a_cell_is_sure_with_a_p_value_of_at_most_five_percent(
    auroc: float, p: float, reads: str
) -> None:
    cell = {"auroc": auroc, "auroc_low": auroc - 0.05, "auroc_high": auroc + 0.05, "p_value": p}
    table = with_answers(pd.DataFrame([cell]).reindex(columns=list(TRANSFER)))
    assert table["reads"].tolist() == [reads]
