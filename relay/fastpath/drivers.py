"""Our programs in the drivers of interfaces (XDP), beside those of tc, which get what these let pass.

A driver has one program, and a link of it lives as long as its file descriptor. The next process is given a
copy of that, for a program that comes where none is resets some drivers. What it depends on is looked at once
a second; where a driver does without, tc goes on alone.
"""

import errno
import os
from dataclasses import dataclass
from typing import Final

from relay.fastpath import abi
from relay.fastpath.libbpf import Libbpf
from relay.fastpath.netdev import Netdev, Station
from relay.fastpath.syscall import let_go, link_xdp, update_link

#: What drivers say, as far as it says more than the errno's own words.
_WORDS: Final = {
    errno.EBUSY: "its driver runs another program",
    errno.EOPNOTSUPP: "its driver knows no XDP, or not with its settings of now",
    errno.EINVAL: "its driver refuses: MTU, queues or offloads do not suit XDP",
    errno.ERANGE: "its MTU is too high for XDP",
}


@dataclass(slots=True)
class _Driver:
    interface: int
    program: int
    #: Holds the program there.
    link: int | None = None
    #: The interface as it was when it was tried last; None: it was not, or is to be tried again.
    tried: Station | None = None
    problem: str = "it was not looked at yet"


class Drivers:
    """Those of one process. ``stations`` is the map that tells programs whom frames are for."""

    def __init__(self, library: Libbpf, stations: int, netdev: Netdev) -> None:
        self._library = library
        self._stations = stations
        self._netdev = netdev
        self._drivers: dict[str, _Driver] = {}

    @property
    def problems(self) -> dict[str, str]:
        """By interface, why its driver does not run the program; empty where it does."""
        return {name: driver.problem for name, driver in self._drivers.items()}

    @property
    def links(self) -> dict[int, int]:
        """By interface, the descriptor that holds the program in its driver."""
        return {one.interface: one.link for one in self._drivers.values() if one.link is not None}

    def attach(self, name: str, interface: int, program: int) -> None:
        """Have an interface's driver run a program, as soon as it can."""
        known = self._drivers.get(name)
        if known is None or (known.interface, known.program) != (interface, program):
            self.detach(name)
            self._drivers[name] = _Driver(interface, program)
        self.look()

    def inherit(self, links: dict[int, int]) -> None:
        """Put our programs where another process had its own, by copies of what ``links`` of it has said."""
        for driver in self._drivers.values():
            if driver.link is None and driver.interface in links:
                link = links.pop(driver.interface)
                try:
                    update_link(link, driver.program)
                except OSError:
                    os.close(link)
                else:
                    driver.link, driver.problem, driver.tried = link, "", None
        let_go(links.values())
        self.look()

    def detach(self, name: str) -> None:
        """Take the program away from an interface."""
        driver = self._drivers.pop(name, None)
        if driver is not None:
            self._release(driver)

    def look(self) -> None:
        """Follow what has changed at the interfaces, and try again where a program has been in the way."""
        if not self._drivers:
            return
        try:
            found = self._netdev.stations({driver.interface for driver in self._drivers.values()})
        except OSError:
            return  # and look again in a second
        for driver in self._drivers.values():
            station = found.get(driver.interface, _GONE)
            if station != driver.tried:
                self._follow(driver, station)

    def _follow(self, driver: _Driver, station: Station) -> None:
        driver.tried, driver.problem = station, station.problem
        key = abi.INTERFACE.pack(driver.interface)
        if not driver.problem and self._library.update(self._stations, key, abi.station(station.address)):
            driver.problem = "there are too many interfaces"
        if driver.problem:
            self._release(driver)
        elif driver.link is None:
            try:
                driver.link = link_xdp(driver.program, driver.interface)
            except OSError as error:
                code = error.errno or 0
                driver.problem = _WORDS.get(code, f"its driver refuses: {os.strerror(code)}")
                if code == errno.EBUSY:
                    driver.tried = None

    def _release(self, driver: _Driver) -> None:
        if driver.link is not None:
            os.close(driver.link)
            driver.link = None
        self._library.delete(self._stations, abi.INTERFACE.pack(driver.interface))

    def close(self) -> None:
        """Take all away."""
        for name in list(self._drivers):
            self.detach(name)


#: An interface that is not there.
_GONE: Final = Station(b"", 0, "it is gone")
