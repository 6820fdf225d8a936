"""Print the README's results table from the stored runs in docs/results/[0-9]-*.json.

python benchmarks/results_table.py
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def table() -> str:
    """Markdown, one row a measure of a stored run."""
    rows = ["| run | measure | value |", "|---|---|---|"]
    for path in sorted(RESULTS.glob("[0-9]-*.json")):
        result = json.loads(path.read_text())
        link = f"[{result['name']}]({result['page']})"
        for measure in result["measures"]:
            rows.append(f"| {link} | {measure['name']} | {measure['value']} |")
            link = ""
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
