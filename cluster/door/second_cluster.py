"""The replicas of the cluster to which models move."""

from __future__ import annotations

from collections.abc import Mapping, Set

from cluster.door.membership import Absences, Membership, Replica, Target
from cluster.door.membership_client import MembershipWatcher
from cluster.settings import Settings


class SecondCluster:
    """Follows the cluster that the first one's moves name.

    Args:
        settings: Of the first cluster; the second one's replicas are as far from its doors' ports, and bound alike.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address = ""
        self._watcher: MembershipWatcher | None = None
        self._absences = Absences()

    def listed(self) -> Membership | None:
        """Return what its Serve listed last; None without it."""
        return self._watcher.listed() if self._watcher else None

    def settle(
        self, members: Membership, before: Membership, healthy: Set[Target]
    ) -> Mapping[str, tuple[Replica, ...]]:
        """Return the replicas of the models that move.

        Args:
            members: The members, with the moves.
            before: The members so far.
            healthy: HTTP addresses that pass the door's own check.
        """
        moves = members.moves
        self._follow(moves.address)
        if self._watcher is None:
            return {}
        stays = before.moves.address == moves.address
        known = {model: before.second.get(model, ()) for model in moves.shares} if stays else {}
        listed = self.listed()
        # While nothing is listed, earlier ones stand: they serve without their controller.
        models = {model: (listed.models if listed else known).get(model, ()) for model in moves.shares}
        now = self._watcher.answered_s
        return self._absences.settle(Membership(models=known), Membership(models=models), healthy, now).models

    def stop(self) -> None:
        """Follow none."""
        self._follow("")

    def _follow(self, address: str) -> None:
        if address == self._address:
            return
        if self._watcher is not None:
            self._watcher.stop()
        self._address, self._watcher, self._absences = address, None, Absences()
        if address:
            self._watcher = MembershipWatcher(self._settings.model_copy(update={"address": address}))
            self._watcher.start()
