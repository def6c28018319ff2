"""What is done about alarms: rationed, journaled before and after, and told to whom the policy names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.values import Alarm
from monitoring.detection.action_limits import Acted, Entry, held_back, taken
from monitoring.detection.notification_payloads import Notice
from monitoring.drift_policy import Action, DriftPolicy, Receiver

Act = Callable[[Alarm], str]
"""Does something about an alarm and returns its name (a job id). It may be called again for the same alarm after
a crash: model, version and window identify the alarm, so that a repeat can be recognised."""

HISTORY = 200
"""Journal entries that are kept."""


class Tells(Protocol):
    """Who sends notices (monitoring/detection/notifier.py)."""

    def send(self, notice: Notice, receiver: Receiver) -> None: ...

    def finished(self) -> list[tuple[Notice, Receiver, str]]: ...


class Responses:
    """One model's. ``save`` puts all state on disk; ``count`` counts an event, with an error where there is one."""

    def __init__(
        self, acts: Mapping[Action, Act], tells: Tells | None, save: Callable[[], None], count: Callable[..., None]
    ) -> None:
        self.journal: list[Entry] = []
        self.acted: tuple[Acted, ...] = ()
        self._acts = acts
        self._tells = tells
        self._save = save
        self._count = count

    def respond(self, policy: DriftPolicy, alarm: Alarm) -> None:
        """Journal the alarm, then act on it as the policy asks and its rations allow."""
        self._count("alarms")
        asked = policy.action_on(alarm.kind)
        action: Action = asked if asked in self._acts else "notify"
        held = "" if action == "notify" else held_back(policy, self.acted, action, alarm.window)
        if action != "notify" and not held:
            self.acted = taken(policy, self.acted, action, alarm.window)
        entry = Entry(
            at=time.time(),
            alarm=alarm,
            action="held" if held else action,
            outcome=held or ("journaled" if action == "notify" else ""),
            notices={receiver.url: "" for receiver in policy.tell} if self._tells else {},
        )
        self.journal = [*self.journal, entry][-HISTORY:]
        self._save()
        self._send(policy, self._finish(entry))

    def quiet(self, policy: DriftPolicy, model: str, version: str, window: float) -> None:
        """Tell that traffic has been quiet long enough for a new alarm."""
        alarm = Alarm(model=model, version=version, window=window, reason="quiet again", features={})
        for receiver in policy.tell if self._tells else ():
            assert self._tells is not None
            self._tells.send(Notice(moment="quiet", alarm=alarm, action="", outcome="", at=time.time()), receiver)

    def resume(self, policy: DriftPolicy) -> None:
        """Take up what was under way when the process ended."""
        for entry in [e for e in self.journal if not e.outcome]:
            self._finish(entry)
        for entry in self.journal:
            self._send(policy, entry)

    def collect(self) -> None:
        """Journal how notices ended."""
        ended = self._tells.finished() if self._tells else []
        for notice, receiver, outcome in ended:
            if outcome != "sent":
                self._count("failures", f"{receiver.url}: {outcome}")
            for i, entry in enumerate(self.journal):
                if entry.alarm == notice.alarm and receiver.url in entry.notices:
                    self.journal[i] = entry.model_copy(update={"notices": {**entry.notices, receiver.url: outcome}})
        if ended:
            self._save()

    def _finish(self, entry: Entry) -> Entry:
        """Carry out what the journal says is under way. The journal is on disk before and after."""
        act = self._acts.get(entry.action)  # type: ignore[call-overload]
        if entry.outcome or act is None:
            return entry
        self._count("actions")
        try:
            done = entry.model_copy(update={"outcome": act(entry.alarm) or "done"})
        except Exception as error:
            # Whatever a project's action raises, monitoring goes on; the journal tells.
            done = entry.model_copy(update={"outcome": f"{type(error).__name__}: {error}", "failed": True})
            self._count("failures", done.outcome)
        self.journal[self.journal.index(entry)] = done
        self._save()
        return done

    def _send(self, policy: DriftPolicy, entry: Entry) -> None:
        if self._tells is None:
            return
        notice = Notice(moment="alarm", alarm=entry.alarm, action=entry.action, outcome=entry.outcome, at=entry.at)
        for receiver in policy.tell:
            if entry.notices.get(receiver.url) == "":
                self._tells.send(notice, receiver)
