"""Time cases in turn, round after round, so that changes of the machine's speed affect all alike; print their table."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Case = Callable[[], tuple[int, float]]  # one run: items done and the seconds they took


@dataclass
class Measured:
    """Items per second of each counted run, and the most GPU memory that any took, in GB (None on a CPU)."""

    rates: list[float] = field(default_factory=list)
    peak_gb: float | None = None


def synchronize() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    import torch  # here, so that `--help` does not wait for it

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object], items: int, prepare: Callable[[], object] = lambda: None) -> Case:
    """A case that does `work` on `items` items, after `prepare`, which is not counted."""

    def case() -> tuple[int, float]:
        prepare()
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        return items, time.perf_counter() - started

    return case


def interleaved(cases: dict[str, Case], repeats: int) -> dict[str, Measured]:
    """The time of each case's runs, after a round of warming up that does not count."""
    import torch

    measured = {name: Measured() for name in cases}
    for i in range(repeats + 1):
        for name, case in cases.items():
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            items, seconds = case()
            if torch.cuda.is_available():
                peak_gb = torch.cuda.max_memory_allocated() / 1e9
                measured[name].peak_gb = max(peak_gb, measured[name].peak_gb or 0)
            if i > 0:
                measured[name].rates.append(items / seconds)
    return measured


def machine() -> str:
    """Device, cores and versions, in a line."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    return f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def report(title: str, unit: str, reference: str, measured: dict[str, Measured], path: Path | None) -> None:
    """Print median, min and max of each case in `unit` per second and its ratio to `reference`; JSON at `path`.

    The ratio is the median of the rounds' own: a machine that becomes faster half-way does so for both.
    """
    reference_rates = measured[reference].rates
    rows = [
        {
            "case": name,
            "median": statistics.median(case.rates),
            "min": min(case.rates),
            "max": max(case.rates),
            "ratio": statistics.median(a / b for a, b in zip(case.rates, reference_rates, strict=True)),
            "rates": case.rates,
            "peak_gb": case.peak_gb,
        }
        for name, case in measured.items()
    ]
    print(f"{title}: {unit} per second, {len(reference_rates)} runs; {machine()}\n")
    print(f"| case | median | min | max | against '{reference}' | GPU memory |\n|---|---:|---:|---:|---:|---:|")
    for row in rows:
        spread = f"{row['median']:.3f} | {row['min']:.3f} | {row['max']:.3f}"
        peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f} GB"
        print(f"| {row['case']} | {spread} | {row['ratio']:.2f} x | {peak} |")
    if path is not None:
        written = {"title": title, "unit": unit, "machine": machine(), "reference": reference, "rows": rows}
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
