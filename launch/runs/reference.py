"""The reference of all keys, for the command line and as a page.

``python -m warprl.launch.runs.reference > docs/configuration.md`` writes the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from warprl.launch.outcome import Entries, Outcome
from warprl.launch.runs.config import KEYS, VARIANTS, RunConfig, flat
from warprl.launch.runs.key_table import Entry, text

INTRODUCTION = """\
# Configuration

<!-- Written by `make reference` from the code; a test compares the two. -->

`warprl config FAMILY --agent AGENT` prints the configuration of a run, `--explain` adds what each
key means, and `--set KEY=VALUE` changes one. A value is written as in JSON, with `none` for null
and without quotes for text. The file `config.yaml` in the folder of a run holds the same keys.

Named agents have some defaults of their own, and `warprl train` uses as many workers as there are
cores. A section with a `type` has only the keys of that type. A key that would have no effect with
the other choices is left out, and refused if it is set; the last column says what it belongs to.
Results do not depend on the keys of `compute` and `output`.
"""


def explain(config: RunConfig) -> Outcome[Entries]:
    """The keys of a configuration with their values, what they mean and what else they take."""
    found = {path: _explained(path, value, config) for path, value in flat(config).items()}
    widths = [max(map(len, found)), max(len(text(row["value"])) for row in found.values())]
    lines = [
        f"{path:<{widths[0]}}  {text(row['value']):<{widths[1]}}  {row['meaning']} [{row['takes']}]"
        for path, row in found.items()
    ]
    return Outcome(Entries(found), "\n".join(lines))


def page() -> str:
    """The page of all keys, section by section."""
    alone = [entry for [entry, *_] in KEYS.values() if "." not in entry.path]
    return "\n".join([INTRODUCTION, *_table(alone), *_sections()])


def _explained(path: str, value: Any, config: RunConfig) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    variant = getattr(getattr(config, section), "type", None) if section else None
    entry = next(entry for entry in KEYS[path] if entry.variant in (None, variant))
    takes = ", ".join(VARIANTS[section]) if name == "type" else entry.values
    return {"value": value, "meaning": entry.key.meaning, "takes": takes}


def _sections() -> Iterator[str]:
    for section, kinds in VARIANTS.items():
        yield f"## `{section}`\n"
        for kind in kinds:
            entries = [
                entry
                for found in KEYS.values()
                for entry in found
                if entry.path.startswith(f"{section}.") and entry.variant == (kind or None)
            ]
            if kind:
                yield from _chosen(kind, entries.pop(0))
            yield from _table(entries)


def _chosen(kind: str, of_type: Entry) -> Iterator[str]:
    yield f"### `{of_type.path} = {kind}`\n"
    needs = f" It belongs to {_needs(of_type)}." if of_type.key.needs else ""
    yield f"{_sentence(of_type)}{needs}\n"


def _table(entries: Sequence[Entry]) -> Iterator[str]:
    if not entries:
        return
    yield "| key | default | takes | meaning | belongs to |"
    yield "|---|---|---|---|---|"
    for entry in entries:
        default = f"`{text(entry.default)}`" if entry.has_default else ""
        cells = [f"`{entry.path}`", default, entry.values, _sentence(entry), _needs(entry)]
        yield f"| {' | '.join(cells)} |".replace("|  |", "| |")
    yield ""


def _sentence(entry: Entry) -> str:
    return f"{entry.key.meaning[0].upper()}{entry.key.meaning[1:]}."


def _needs(entry: Entry) -> str:
    return "; and to ".join(need.words for need in entry.key.needs)


if __name__ == "__main__":
    print(page(), end="")
