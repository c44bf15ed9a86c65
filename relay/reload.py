"""Other settings while the gateway runs: applied whole, or not at all."""

import os
from dataclasses import dataclass

import structlog

from protocols.policy import Policy
from relay import config, logs, privileges, systemd
from relay.config import ConfigError, Settings
from relay.config.capabilities import needed_capabilities
from relay.control.daemon import ReloadRefused
from relay.kernel import KernelError
from relay.options import RunOptions, with_socket
from relay.plan import Plan
from relay.premises import Premises
from relay.privileges import Capability

_log = structlog.get_logger("vpnmasq")


def load(options: RunOptions) -> Settings:
    """The settings as file, environment and command line have them now.

    Raises:
        ConfigError: they are wrong.
    """
    sets = with_socket(options.sets, options.socket, os.environ)
    return config.load(options.config, sets, os.environ)


@dataclass(frozen=True, slots=True)
class Reloader:
    """Reads the settings again, and has the premises live by them."""

    premises: Premises
    options: RunOptions

    async def reload_and_log(self) -> None:
        """As ``reload``, for somebody who gets no answer."""
        systemd.reloading()
        try:
            await self.reload()
        except ReloadRefused as refused:
            for problem in refused.problems:
                _log.error("reload refused, nothing was changed", problem=problem)
        finally:
            systemd.ready(self.premises.service.summary())

    async def reload(self) -> list[str]:
        """Apply what differs now, or nothing at all; the changed keys.

        Raises:
            ReloadRefused: the file is wrong, asks for what takes a restart, or the kernel refuses.
        """
        async with self.premises.changing:
            return await self._reload()

    async def _reload(self) -> list[str]:
        premises, service = self.premises, self.premises.service
        before, settings = premises.settings, self._acceptable()
        changed = config.differences(before, settings)
        premises.settings = settings
        try:
            await self._live_by(premises.policy(settings))
        except (KernelError, OSError) as error:
            premises.settings = before
            await self._live_by(premises.policy(before))
            raise ReloadRefused([str(error)]) from error
        logs.configure(settings.config.log.level, settings.config.log.format)
        await premises.follower.look_again()
        await service.others.look(premises.follower.plan)
        await service.names.set(settings.config.ddns)
        _log.info("reloaded", changed=changed)
        return changed

    def _acceptable(self) -> Settings:
        """The settings of now, if we may and can change to them.

        Raises:
            ReloadRefused: not so.
        """
        try:
            settings = load(self.options)
        except ConfigError as error:
            raise ReloadRefused([str(problem) for problem in error.problems]) from error
        fixed = config.needs_restart(self.premises.settings, settings)
        if fixed:
            raise ReloadRefused([f"{key}: can only change with a restart" for key in fixed])
        needed = {Capability[name] for name in needed_capabilities(settings.config)}
        # What is not kept has done its work: what it was for cannot change.
        missing = privileges.missing(needed & privileges.KEPT)
        if missing:
            raise ReloadRefused(privileges.explain(missing).splitlines())
        return settings

    async def _live_by(self, policy: Policy) -> None:
        """Use a policy, at the addresses of now, everywhere.

        Raises:
            KernelError, OSError: the kernel refuses; no session has been ended then.
        """
        service = self.premises.service
        plan = Plan.of(policy, self.premises.follower.uplink.address)
        await service.station.change(plan)
        # Also when the plan is the same: the networks may differ, and our table may have been flushed.
        await self.premises.interceptor.install(plan, policy.lan_networks, service.station.answer_port)
        service.policy = policy
        service.datapath.perform(service.gateway.reload(policy, now=service.clock()))
        service.handover.pptp_served(served=policy.serves_pptp())
