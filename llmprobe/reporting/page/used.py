"""What the model says before and after its states were changed, as a table of the page."""

from __future__ import annotations

from llmprobe.ground.text import elide
from llmprobe.reporting.page.tables import LONGEST_NAME, Table
from llmprobe.results.results import Results

_MOST_ROWS = 60
_LONGEST_TEXT = 90


def examples_of_use(run: Results) -> list[Table]:
    """Return what the model says of a few texts of each curve; none if no state was changed."""
    examples = run.intervention_examples
    if examples.empty:
        return []
    rows = [
        [
            elide(f"{row['model']} on {row['dataset']}", 2 * LONGEST_NAME),
            elide(row["text"], _LONGEST_TEXT),
            run.class_names(row["dataset"]).get(row["label"], row["label"]),
            f"{row['layer']}",
            elide(row["says"], _LONGEST_TEXT),
            elide(row["says_after"], _LONGEST_TEXT),
        ]
        for row in examples.head(_MOST_ROWS).to_dict("records")
    ]
    headers = ("of", "text", "label", "layer", "says next", "with the state reflected")
    return [Table("What the model says, and would say: tokens with their probabilities",
                  headers, rows)]  # fmt: skip
