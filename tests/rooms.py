"""Which room of `safron.engine` may import which? One table for test_architecture.py and docs/draw_architecture.py."""

from __future__ import annotations

FLOORS: tuple[tuple[str, ...], ...] = (
    ("face",),
    ("preparation",),
    ("execution",),
    ("scratch",),
    ("generator", "blending"),
    ("plan",),
    ("system",),
    ("io",),
)
"""A room imports from floors below its own, never from above. "face" is the modules at the top of engine/; "io" is `safron.io`."""

BESIDE: dict[str, tuple[str, ...]] = {
    "evaluation": ("generator", "plan", "system", "io"),
    "optimization": ("generator", "plan", "system", "io"),
}
"""Rooms that no floor imports, and what each may import."""

QUESTIONS: dict[str, str] = {
    "face": "What do users call, and what are they told? Command line, render(), report, status",
    "preparation": "May this be done, how, and what will it take? Options, outputs, budget",
    "execution": "Who runs which task, in which order? Threads, processes, Dask, batch systems",
    "scratch": "What do tasks share on disk, and what survives a crash? Journal, lock",
    "generator": "How do labels and noise become a patch?",
    "blending": "How do patches become one image?",
    "plan": "Where does everything lie? Grid, blocks, blend weights: arithmetic, no pixel",
    "system": "What do this process and machine offer? Memory, cores, GPUs, signals",
    "io": "How are masks read and slides written? Arrays, slices and files, never patches",
    "evaluation": "How good is a slide? Seams, alignment, FID",
    "optimization": "Is there a faster graph with the same pixels?",
}
"""The question that each room answers."""
