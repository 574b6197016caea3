"""Cases timed in turn, round after round, so that a machine's moods fall on all alike; and their table."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

Case = Callable[[], tuple[int, float]]  # one run: items done and the seconds they took


def interleaved(cases: dict[str, Case], repeats: int) -> dict[str, list[float]]:
    """Items per second of each case's runs, after one round that warms up and is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(repeats + 1):
        for name, case in cases.items():
            items, seconds = case()
            if i > 0:
                rates[name].append(items / seconds)
    return rates


def machine() -> str:
    """Device, cores and versions, in a line."""
    import torch  # here, so that a bench of stages without torch does not wait for it

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    return f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def report(title: str, unit: str, reference: str, rates: dict[str, list[float]], path: Path | None) -> None:
    """Print median, min and max of each case in `unit` per second and its ratio to `reference`; JSON at `path`."""
    base = statistics.median(rates[reference])
    rows = [
        {
            "case": name,
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "ratio": statistics.median(values) / base,
        }
        for name, values in rates.items()
    ]
    print(f"{title}: {unit} per second, {len(rates[reference])} runs; {machine()}\n")
    print(f"| case | median | min | max | against '{reference}' |\n|---|---:|---:|---:|---:|")
    for row in rows:
        print(f"| {row['case']} | {row['median']:.3f} | {row['min']:.3f} | {row['max']:.3f} | {row['ratio']:.2f} x |")
    if path is not None:
        written = {"title": title, "unit": unit, "machine": machine(), "reference": reference, "rows": rows}
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
