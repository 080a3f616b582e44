"""The references in a comparison: the untrained policy, and PPO trained in several ways."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from rich.console import Console

from warprl.launch.errors import UserError
from warprl.launch.evaluation import evaluate
from warprl.launch.evaluation.evaluate import Protocol
from warprl.launch.evaluation.groups import Group, Measured, Member

WORDS = {
    "untrained": "the policy of the runs before training, which adapts as they do",
    "scratch": "Stable-Baselines3's PPO from scratch on each task, with one update on as many "
    "environment steps as each inner step",
    "finetuned": "PPO on tasks that it does not see, for as many environment steps as the runs, "
    "and then on each task as from scratch",
    "oracle": "PPO on tasks whose numbers it sees, for as many environment steps as the runs; it "
    "does not adapt",
}


@dataclass(frozen=True)
class Reference:
    """A row of the comparison beside the runs: one of WORDS, measured seed by seed."""

    word: str
    label: str
    seeds: Sequence[Measured]


def parse(text: str | None) -> list[str]:
    """The words in ``"scratch,oracle"``, each once. Raises UserError for one that is unknown."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in WORDS:
            raise UserError(f"unknown reference {word!r}: choose from {', '.join(WORDS)}")
    return list(dict.fromkeys(words))


def measure(
    words: Sequence[str], groups: Sequence[Group], protocol: Protocol, console: Console
) -> list[Reference]:
    """The references of all groups, word by word; groups whose reference is the same share it."""
    found = []
    for word in words:
        if word == "untrained":
            found += _untrained(groups, protocol, console)
        else:
            found += _ppo(word, groups, protocol, console)
    return found


def _untrained(groups: Sequence[Group], protocol: Protocol, console: Console) -> list[Reference]:
    """The policies that the runs began with, seed by seed."""

    def starts(group: Group) -> Hashable:
        return tuple(evaluate.untrained_subject(member.run).digest() for member in group.members)

    return [
        Reference("untrained", label, [_start(member, protocol, console) for member in members])
        for label, members in _apart("untrained", groups, starts)
    ]


def _ppo(
    word: str, groups: Sequence[Group], protocol: Protocol, console: Console
) -> list[Reference]:
    """PPO like the runs. It has the seed of the protocol, one for all seeds of a group."""
    # Imported here, because Stable-Baselines3 takes seconds to load.
    from warprl.launch.evaluation import ppo

    return [
        Reference(word, label, [ppo.measure(word, members[0].run, protocol, console)])
        for label, members in _apart(
            word, groups, lambda group: ppo.likeness(word, group.members[0].run)
        )
    ]


def _apart(
    word: str, groups: Sequence[Group], key: Callable[[Group], Hashable]
) -> list[tuple[str, Sequence[Member]]]:
    """A label and members for each distinct key, so that equal references are measured once."""
    first: dict[Hashable, Group] = {}
    for group in groups:
        first.setdefault(key(group), group)
    return [
        (word if len(first) == 1 else f"{word} ({group.label})", group.members)
        for group in first.values()
    ]


def _start(member: Member, protocol: Protocol, console: Console) -> Measured:
    """The policy that a run began with, adapted."""
    subject = evaluate.untrained_subject(member.run)
    return Measured.of(
        evaluate.measure(subject, protocol, console),
        run=member.run.address,
        seed=member.run.config.seed,
        agent=member.run.config.agent,
        iteration=0,
        trained_inner_steps=0,
        env_steps=0.0,
        wall_s=0.0,
    )
